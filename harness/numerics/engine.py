"""Amax, encoding and decoding over a grid of groups, in chunks that fit the cache."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final

import numpy as np

from harness.numerics import compiled
from harness.numerics.arrays import widened
from harness.numerics.codec import decode_array
from harness.numerics.fast import encode_float32
from harness.numerics.formats import Format
from harness.numerics.grid import Grid
from harness.numerics.rounding import round_codes, round_whole

Array = np.ndarray[Any, np.dtype[Any]]
#: Elements worked on at a time.
_CHUNK: Final = 1 << 15
_INF_BITS: Final = 0x7F800000


def _pieces(total: int, size: int, limit: int) -> Iterator[tuple[slice, slice]]:
    """Cut `total` elements at groups of `size`, or within them if they are too large.

    Yields:
        The elements of a piece, at most `limit`, and the groups that they belong to.
    """
    if size <= limit:
        step = limit // size * size
        for start in range(0, total, step):
            stop = min(start + step, total)
            yield slice(start, stop), slice(start // size, -(-stop // size))
        return
    for group, first in enumerate(range(0, total, size)):
        last = min(first + size, total)
        for start in range(first, last, limit):
            yield slice(start, min(start + limit, last)), slice(group, group + 1)


def _tiles(grid: Grid) -> Iterator[tuple[tuple[slice, ...], tuple[slice, ...], Grid]]:
    """Parts of the view: elements, the groups they belong to, the part's own grid."""
    outer, length, inner = grid.view
    across = max(_CHUNK // min(grid.tall, 128), 1)
    down = max(_CHUNK // min(across, max(inner, 1)), 1)
    for o in range(outer):
        plane = slice(o, o + 1)
        for rows, group_rows in _pieces(length, grid.tall, down):
            for columns, group_columns in _pieces(inner, grid.wide, across):
                view = (1, rows.stop - rows.start, columns.stop - columns.start)
                part = Grid(view, (0, 1, 2), view, grid.tall, grid.wide, view)
                elements = (plane, rows, columns)
                yield elements, (plane, group_rows, group_columns), part


def _reduce(values: Array, grid: Grid, function: np.ufunc) -> Array:
    """One value of each group."""
    _, length, inner = grid.view
    if grid.tall > 1:
        values = function.reduceat(values, range(0, length, grid.tall), axis=1)
    if grid.wide > 1:
        values = function.reduceat(values, range(0, inner, grid.wide), axis=2)
    return values


def amax(view: Array, grid: Grid) -> tuple[Array, Array | None]:
    """Largest finite magnitude of each group, and where there are NaN (None: nowhere).

    Returns:
        float32 (float64 for float64 values) of the grid's groups; a mask or None.
    """
    kernels = compiled.loops(view)
    if kernels is not None:
        bits = compiled.amax_bits(kernels, view, grid)
        if int(bits.max(initial=0)) < _INF_BITS:
            return bits.view(np.float32), None
    wide = np.float64 if view.dtype == np.float64 else np.float32
    result = np.zeros(grid.groups, wide)
    poisoned: Array | None = None
    for elements, groups, part in _tiles(grid):
        magnitude = np.abs(widened(view[elements]))
        found = _reduce(magnitude, part, np.maximum)
        if not np.isfinite(found).all():
            nan = _reduce(np.isnan(magnitude), part, np.logical_or)
            if nan.any():
                if poisoned is None:
                    poisoned = np.zeros(grid.groups, bool)
                poisoned[groups] |= nan
            finite = np.where(np.isfinite(magnitude), magnitude, 0)
            found = _reduce(finite, part, np.maximum)
        np.maximum(result[groups], found, out=result[groups])
    return result, poisoned


def extremes(view: Array, grid: Grid) -> tuple[Array, Array, Array | None]:
    """Smallest and largest finite value of each group with zero, and where NaN are."""
    wide = np.float64 if view.dtype == np.float64 else np.float32
    low, high = np.zeros(grid.groups, wide), np.zeros(grid.groups, wide)
    poisoned = np.zeros(grid.groups, bool)
    for elements, groups, part in _tiles(grid):
        values = widened(view[elements])
        poisoned[groups] |= _reduce(np.isnan(values), part, np.logical_or)
        finite = np.where(np.isfinite(values), values, 0)
        low[groups] = np.minimum(low[groups], _reduce(finite, part, np.minimum))
        high[groups] = np.maximum(high[groups], _reduce(finite, part, np.maximum))
    return low, high, poisoned if poisoned.any() else None


def encode_scaled(
    view: Array,
    grid: Grid,
    scales: Array,
    *,
    tensor: float,
    points: Array | None,
    element: Format,
    overflow: str,
    rounding: str,
    seed: int | None,
) -> Array:
    """Codes of values divided by their group's scale (and the tensor's)."""
    with np.errstate(all="ignore"):
        total = (scales * np.float32(tensor)).astype(np.float32)
    kernels = compiled.loops(view)
    if kernels is not None and compiled.can_encode(element, rounding):
        return compiled.encode_scaled(
            kernels,
            view,
            grid,
            total,
            points=points,
            element=element,
            overflow=overflow,
        )
    codes = np.empty(view.shape, np.uint16 if element.bits == 16 else np.uint8)
    generator = np.random.default_rng(seed)
    with np.errstate(all="ignore"):
        for elements, groups, part in _tiles(grid):
            values = widened(view[elements])
            ratio = values / part.spread(total[groups])
            draws = generator.random(ratio.shape) if rounding == "stochastic" else None
            if points is not None:
                spread = part.spread(points[groups])
                codes[elements] = _encode_points(
                    ratio, spread, element, rounding, draws
                )
            else:
                codes[elements] = _encode(ratio, element, overflow, rounding, draws)
    return codes


def _encode(
    ratio: Array, element: Format, overflow: str, rounding: str, draws: Array | None
) -> Array:
    if (
        rounding != "nearest_even"
        or element.kind != "float"
        or ratio.dtype != np.float32
    ):
        return round_codes(ratio, element, overflow, rounding, draws)
    codes = np.empty(ratio.shape, np.uint16 if element.bits == 16 else np.uint8)
    encode_float32(ratio.reshape(-1), element, overflow, codes.reshape(-1))
    return codes


def _encode_points(
    ratio: Array, points: Array, element: Format, rounding: str, draws: Array | None
) -> Array:
    low = -(1 << (element.bits - 1)) if element.signed else 0
    whole = round_whole(ratio, low - points, int(element.max) - points, rounding, draws)
    return ((whole + points) & ((1 << element.bits) - 1)).astype(np.uint8)


def decode_scaled(
    codes: Array,
    grid: Grid,
    scales: Array,
    *,
    tensor: float,
    points: Array | None,
    element: Format,
) -> Array:
    """float32 values of codes times their group's scale (and the tensor's)."""
    with np.errstate(all="ignore"):
        total = (scales * np.float32(tensor)).astype(np.float32)
    kernels = compiled.loops(codes)
    if kernels is not None:
        return compiled.decode_scaled(
            kernels, codes, grid, total, points=points, element=element
        )
    values = np.empty(codes.shape, np.float32)
    with np.errstate(all="ignore"):
        for elements, groups, part in _tiles(grid):
            decoded = decode_array(codes[elements], element)
            if points is not None:
                decoded = decoded - part.spread(points[groups]).astype(np.float32)
            values[elements] = decoded * part.spread(total[groups])
    return values


def squared_error(
    view: Array, grid: Grid, scales: Array, tensor: float, element: Format
) -> Array:
    """Sum of the squared errors of each group, finite values only, in float64."""
    result = np.zeros(grid.groups)
    total = (scales * np.float32(tensor)).astype(np.float32)
    with np.errstate(all="ignore"):
        for elements, groups, part in _tiles(grid):
            values = widened(view[elements])
            spread = part.spread(total[groups])
            codes = _encode(values / spread, element, "saturate", "nearest_even", None)
            error = values - (decode_array(codes, element) * spread).astype(np.float64)
            square = np.where(np.isfinite(values), error * error, 0.0)
            result[groups] += _reduce(square, part, np.add)
    return result
