"""Codes of an input that last-bit arithmetic decides, and which way they went.

A value that lies almost in the middle between two codes may get either from a faithful
backend. Which one it got shows in the output: a code that is one step off moves the
whole output vector by that step times a column of the weight. So it is read off there,
by least squares, instead of being allowed for: an allowance for every flip that might
have happened is larger than the defects that are looked for.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import Any

import numpy as np

from harness.models.types import Operator

Array = np.ndarray[Any, np.dtype[Any]]


@dataclass(frozen=True, eq=False)
class Flips:
    """Steps that codes on the edge could take, one entry a step and output vector.

    Attributes:
        row: int64, which output vector: see `as_rows`.
        column: int64, which weight of the output vector's group.
        step: float64, decoded value of the other code minus that of the oracle's code.
    """

    row: Array
    column: Array
    step: Array

    @property
    def count(self) -> int:
        """How many there are."""
        return int(self.row.size)


def as_rows(operator: Operator, y: Array) -> Array:
    """An output as vectors over output channels: (rows, out / groups).

    The rows of a linear layer are its own; those of a convolution run over samples,
    groups and positions.
    """
    if operator.kind == "linear":
        return y.reshape(-1, y.shape[-1])
    batch, out = y.shape[:2]
    per_group = out // operator.groups
    split = y.reshape(batch, operator.groups, per_group, -1)
    return np.moveaxis(split, 2, 3).reshape(-1, per_group)


def find_flips(
    operator: Operator, decoded: Array, others: tuple[Array, ...], y_shape: Any
) -> Flips:
    """Every step by which another admissible decoding differs from the oracle's.

    Args:
        operator: whose input it is.
        decoded: the oracle's decoded input.
        others: decoded inputs of arithmetic that is off in the last bits.
        y_shape: shape of the operator's output.
    """
    parts = []
    for other in others:
        where = np.nonzero(other != decoded)
        step = other[where].astype(np.float64) - decoded[where]
        if operator.kind == "linear":
            shape = decoded.shape
            row = np.ravel_multi_index(where[:-1], shape[:-1]) if shape[:-1] else 0
            row = np.broadcast_to(np.asarray(row, dtype=np.int64), step.shape)
            parts.append((row, where[-1], step))
        else:
            parts.extend(_through_kernel(operator, where, step, y_shape))
    if not parts:
        none = np.zeros(0, np.int64)
        return Flips(none, none, np.zeros(0))
    row, column, step = (np.concatenate(part) for part in zip(*parts, strict=True))
    return Flips(row, column, step)


def _through_kernel(
    operator: Operator, where: tuple[Array, ...], step: Array, y_shape: Any
) -> list[tuple[Array, Array, Array]]:
    """Where each changed input value of a convolution is seen from, tap by tap."""
    per_group = operator.weight.shape[1]
    kernel = operator.weight.shape[2:]
    group, channel = np.divmod(where[1], per_group)
    parts = []
    for tap in itertools.product(*(range(size) for size in kernel)):
        inside = np.ones(step.shape, dtype=bool)
        position = np.zeros(step.shape, dtype=np.int64)
        for axis, offset in enumerate(tap):
            reach = (
                where[2 + axis]
                + operator.padding[axis][0]
                - offset * operator.dilation[axis]
            )
            index, rest = np.divmod(reach, operator.stride[axis])
            size = y_shape[2 + axis]
            inside &= (rest == 0) & (index >= 0) & (index < size)
            position = position * size + index
        positions = int(np.prod(y_shape[2:]))
        row = (where[0] * operator.groups + group) * positions + position
        column = np.ravel_multi_index((channel, *tap), (per_group, *kernel))
        parts.append((row[inside], column[inside], step[inside]))
    return parts


def resolve(operator: Operator, weight: Array, flips: Flips, residual: Array) -> Array:
    """The residual without the steps that codes on the edge took, in rows.

    The steps of a faithful backend are among those that could have been taken, so what
    is left of its residual is never more than its roundings. What is left of a defect
    is whatever no choice of steps can imitate.

    Args:
        operator: kind and groups.
        weight: float32 or float64, as the oracle has it.
        flips: from `find_flips`.
        residual: observed minus oracle, finite, in the output's shape.
    """
    rows = np.array(as_rows(operator, residual))
    if not flips.count:
        return rows
    # (groups, K, out / groups): a step moves its output vector along one of these.
    directions = weight.reshape(operator.groups, -1, int(np.prod(weight.shape[1:])))
    directions = np.swapaxes(directions, 1, 2)
    order = np.argsort(flips.row, kind="stable")
    row, column, step = (v[order] for v in (flips.row, flips.column, flips.step))
    group = _group_of(operator, row, rows.shape[0], residual.shape)
    starts = np.flatnonzero(np.diff(row, prepend=-1))
    ends = np.append(starts[1:], row.size)
    alone = starts[ends - starts == 1]
    moves = step[alone, None] * directions[group[alone], column[alone]]
    found = rows[row[alone]]
    gain = 2 * (found * moves).sum(axis=1) - np.square(moves).sum(axis=1)
    rows[row[alone]] = found - np.where(gain > 0, 1.0, 0.0)[:, None] * moves
    for start, end in zip(starts, ends, strict=True):
        if end - start > 1:
            part = slice(start, end)
            moves = step[part, None] * directions[group[start], column[part]]
            rows[row[start]] = _without(moves, rows[row[start]])
    return rows


def reach(
    operator: Operator, weight: Array, flips: Flips, y: Array
) -> tuple[Array, Array]:
    """How far codes on the edge could move every element, down and up, in rows.

    For results that are rounded themselves: what of a step is left after rounding
    does not tell which steps were taken, so all are admitted, in the few rows that
    have any.

    Args:
        operator: kind and groups.
        weight: as the oracle has it.
        flips: from `find_flips`.
        y: an output, for its shape.
    """
    low = np.zeros_like(as_rows(operator, np.asarray(y, np.float64)))
    high = low.copy()
    if flips.count:
        directions = weight.reshape(operator.groups, -1, int(np.prod(weight.shape[1:])))
        directions = np.swapaxes(directions, 1, 2)
        group = _group_of(operator, flips.row, low.shape[0], y.shape)
        moves = flips.step[:, None] * directions[group, flips.column]
        np.add.at(low, flips.row, np.minimum(moves, 0))
        np.add.at(high, flips.row, np.maximum(moves, 0))
    return low, high


def _without(moves: Array, here: Array) -> Array:
    """One vector's residual without the best choice of its steps.

    Fewer steps than outputs are determined: least squares says which were taken. More
    are not, so any share of each is admitted, which no choice can do better than.
    """
    from scipy.optimize import lsq_linear

    if len(moves) <= len(here):
        share = np.linalg.lstsq(moves.T, here, rcond=None)[0]
        left: Array = here - (share > 0.5) @ moves
        return left if np.square(left).sum() < np.square(here).sum() else here
    share = lsq_linear(moves.T, here, bounds=(0, 1), method="bvls").x
    nearest: Array = here - share @ moves
    return nearest


def _group_of(
    operator: Operator, row: Array, rows: int, y_shape: tuple[int, ...]
) -> Array:
    if operator.kind == "linear" or operator.groups == 1:
        return np.zeros(row.shape, np.int64)
    positions = rows // (y_shape[0] * operator.groups)
    return (row // positions) % operator.groups
