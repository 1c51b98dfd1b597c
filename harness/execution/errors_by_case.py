"""Squared errors of two runs by case: what drift, oracle and baseline are made of.

Outputs of a model have different units and sizes, so each output's squares are
divided by that output's squared norm over all cases before they are added: the
pooled ratio is then the root mean square over outputs of the relative L2.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from harness.judge.evidence import Paired

Array = np.ndarray[Any, np.dtype[Any]]
ByCase = Mapping[str, Mapping[str, Array]]


def paired(
    reference: ByCase,
    candidate: ByCase,
    *,
    names: tuple[str, ...] | None = None,
    project: Callable[[str, str, Array], Array] | None = None,
) -> Paired:
    """Squared errors of `candidate` against `reference`, over the cases both have.

    Args:
        reference: case -> output -> array, any real dtype.
        candidate: the same; arrays of other shapes count as infinitely wrong.
        names: outputs to compare; None: the reference's.
        project: makes the candidate's full array comparable with the reference's
            compact one, given case and output.

    Returns:
        Squares in float64. Equal non-finite values are no error, different ones an
        infinite one, so NaN never passes for small.
    """
    cases = tuple(case for case in reference if case in candidate)
    if names is None:
        names = tuple(reference[cases[0]]) if cases else ()
    errors = np.zeros((len(names), len(cases)))
    squares = np.zeros((len(names), len(cases)))
    for column, case in enumerate(cases):
        for row, name in enumerate(names):
            wanted = np.asarray(reference[case][name], dtype=np.float64)
            found = candidate[case].get(name)
            if found is not None and project is not None:
                found = project(case, name, found)
            errors[row, column] = _squared_error(wanted, found)
            squares[row, column] = _square(wanted)
    # Over all cases of the reference, so that two runs that lack different cases are
    # in the same units.
    totals = np.array([[_energy(reference, name)] for name in names])
    scale = np.where(totals > 0, totals, 1.0).reshape(-1, 1)
    return Paired(
        cases=cases,
        error_sq=(errors / scale).sum(axis=0),
        reference_sq=(squares / scale).sum(axis=0),
    )


def _energy(reference: ByCase, name: str) -> float:
    """Sum of squares of an output over all cases that have it."""
    return sum(
        _square(np.asarray(arrays[name], dtype=np.float64))
        for arrays in reference.values()
        if name in arrays
    )


def _square(array: Array) -> float:
    return float(np.square(array[np.isfinite(array)]).sum())


def _squared_error(wanted: Array, found: Array | None) -> float:
    if found is None or np.shape(found) != wanted.shape:
        return float("inf")
    other = np.asarray(found, dtype=np.float64)
    same = (wanted == other) | (np.isnan(wanted) & np.isnan(other))
    with np.errstate(invalid="ignore"):
        difference = np.where(same, 0.0, other - wanted)
    if not np.isfinite(difference).all():
        return float("inf")
    return float(np.square(difference).sum())
