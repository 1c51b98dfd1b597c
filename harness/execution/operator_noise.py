"""How far an operator's output moves when nothing changes, where it may."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Sequence
from typing import Any

import numpy as np

from harness.backends.protocol import Session
from harness.compare.operator_evidence import OperatorEvidence
from harness.execution.cases_run import run_cases
from harness.models.types import Case, Model

Array = np.ndarray[Any, np.dtype[Any]]


def with_measured_noise(
    entries: Sequence[OperatorEvidence],
    session: Session,
    model: Model,
    cases: Sequence[Case],
    *,
    batch: int,
) -> tuple[OperatorEvidence, ...]:
    """The operators with what two runs of the same cases differ by.

    Only calls whose input was the same to the last bit count: what differs there is
    the operator's own. The mean square of the difference stands for every element that
    was compared with the oracle.

    Args:
        entries: of a backend that does not declare itself exact.
        session: the loaded target.
        model: what it is.
        cases: run twice, watched.
        batch: most cases that are stacked.
    """
    names = {entry.operator for entry in entries}
    first, second = (_watch(session, model, cases, names, batch) for _ in range(2))
    noise = {name: _mean_square(first[name], second[name]) for name in names}
    return tuple(
        dataclasses.replace(entry, measured_sq=noise[entry.operator] * entry.elements)
        for entry in entries
    )


def with_declared_noise(
    entries: Sequence[OperatorEvidence],
    session: Any,
    model: Model,
    groups: Sequence[Sequence[Case]],
    *,
    batch: int,
) -> tuple[OperatorEvidence, ...] | None:
    """The operators with what a device says they are off by; None: it says nothing.

    Args:
        entries: of a backend whose session is drawn.
        session: the loaded target.
        model: what it is.
        groups: cases that are run, watched.
        batch: most cases that are stacked.
    """
    declare = getattr(session, "expected_error", None)
    if declare is None:
        return None
    total = {entry.operator: 0.0 for entry in entries}
    elements = dict.fromkeys(total, 0)

    def on_capture(name: str, x: Array, y: Array) -> None:
        square = np.broadcast_to(np.asarray(declare(name, x)[1], np.float64), y.shape)
        total[name] += float(square.sum())
        elements[name] += y.size

    for cases in groups:
        run_cases(
            session,
            model,
            cases,
            batch=batch,
            capture=list(total),
            on_capture=on_capture,
        )
    return tuple(
        dataclasses.replace(
            entry,
            measured_sq=total[entry.operator]
            / max(elements[entry.operator], 1)
            * entry.elements,
        )
        for entry in entries
    )


def _watch(
    session: Session,
    model: Model,
    cases: Sequence[Case],
    names: Collection[str],
    batch: int,
) -> dict[str, list[tuple[Array, Array]]]:
    """Operator -> input and output of every call."""
    found: dict[str, list[tuple[Array, Array]]] = {name: [] for name in names}
    run_cases(
        session,
        model,
        cases,
        batch=batch,
        capture=names,
        on_capture=lambda name, x, y: found[name].append((x.copy(), y.copy())),
    )
    return found


def _mean_square(
    first: Sequence[tuple[Array, Array]], second: Sequence[tuple[Array, Array]]
) -> float:
    """Over all elements of the calls with equal inputs; 0 when there is none."""
    total, elements = 0.0, 0
    for (x, y), (again, other) in zip(first, second, strict=False):
        if not np.array_equal(x, again) or y.shape != other.shape:
            continue
        difference = np.asarray(y, np.float64) - np.asarray(other, np.float64)
        total += float(np.square(difference[np.isfinite(difference)]).sum())
        elements += y.size
    return total / elements if elements else 0.0
