"""Codes on the edge are read off the output, and nothing else is."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from harness.schemes.ambiguity import as_rows, find_flips, resolve
from harness.schemes.linear_algebra import product


def flipped(x, where, step):
    """The input with some values one step off."""
    other = x.copy()
    other[where] += step
    return other


@pytest.fixture
def depthwise(conv):
    """Six channels, each its own group."""
    return dataclasses.replace(conv, weight=conv.weight[:, :1], groups=6)


@pytest.mark.parametrize("kind", ["linear", "conv", "depthwise"])
def test_a_flip_that_happened_is_taken_out(kind, request, rng):
    """The output of the other code leaves no residual, wherever the code is."""
    operator = request.getfixturevalue(kind)
    channels = operator.weight.shape[1] * operator.groups
    shape = (3, channels) if kind == "linear" else (2, channels, 5, 6)
    x = rng.standard_normal(shape)
    weight = operator.weight.astype(np.float64)
    where = tuple(rng.integers(0, size, 2) for size in shape)
    other = flipped(x, where, 0.25)
    residual = product(operator, other, weight) - product(operator, x, weight)

    flips = find_flips(operator, x, (other, x), residual.shape)
    rows = resolve(operator, weight, flips, residual)

    assert flips.count
    assert np.square(residual).sum() > 0.1
    assert np.square(rows).sum() < 1e-20


def test_a_flip_that_did_not_happen_takes_nothing(linear, rng):
    """A faithful output stays as near as it is."""
    x = rng.standard_normal((3, 70))
    weight = linear.weight.astype(np.float64)
    residual = rng.standard_normal((3, 24)) * 1e-6
    flips = find_flips(linear, x, (flipped(x, (1, 2), 0.5),), residual.shape)

    rows = resolve(linear, weight, flips, residual)

    assert np.array_equal(rows, residual)


def test_a_defect_stays_although_a_code_is_on_the_edge(linear, rng):
    """Only the one direction of the flip can be taken out of a residual."""
    x = rng.standard_normal((1, 70))
    weight = linear.weight.astype(np.float64)
    defect = rng.standard_normal((1, 24))
    where = (np.array([0, 0]), np.array([2, 9]))
    flips = find_flips(linear, x, (flipped(x, where, 0.5),), defect.shape)

    rows = resolve(linear, weight, flips, defect)

    assert np.square(rows).sum() > 0.5 * np.square(defect).sum()


def test_more_codes_than_outputs_explain_no_more_than_they_can(linear, rng):
    """Any choice of steps is admitted, but nothing beyond all of them together."""
    operator = dataclasses.replace(linear, weight=linear.weight[:2], bias=None)
    weight = operator.weight.astype(np.float64)
    x = rng.standard_normal((1, 70))
    taken = rng.integers(0, 2, 70)
    reachable = 0.5 * taken[None] @ weight.T
    flips = find_flips(operator, x, (x + 0.5,), (1, 2))

    assert np.square(resolve(operator, weight, flips, reachable)).sum() < 1e-20
    beyond = 0.5 * np.abs(weight).sum(axis=1)[None] * 3
    assert np.square(resolve(operator, weight, flips, beyond)).sum() > 1


def test_rows_of_a_convolution_run_over_samples_groups_positions(conv, rng):
    """Element (n, o, i, j) is found in the row of its sample, group and position."""
    y = rng.standard_normal((2, 6, 3, 4))

    rows = as_rows(conv, y)

    assert rows.shape == (2 * 2 * 12, 3)
    assert rows[(1 * 2 + 1) * 12 + (2 * 4 + 3), 2] == y[1, 5, 2, 3]
