"""The compiled pass over large tensors, on as many threads as there are cores."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from importlib.util import find_spec
from typing import Any, Final

import numpy as np

from harness.compare.moments import (
    BLOCKS,
    BUCKETS,
    Moments,
    tiles,
)

Array = np.ndarray[Any, np.dtype[Any]]

#: Below this many elements NumPy is done before the compiled code is loaded.
NATIVE_FROM: Final = 1 << 22
#: Parts of the work. Their number does not depend on the threads, so neither does the
#: order of any sum.
_PARTS: Final = 8
#: dtype -> (kind in the kernel, dtype of its bits).
_KINDS: Final = {
    "float32": (0, np.uint32),
    "float16": (1, np.uint16),
    "bfloat16": (2, np.uint16),
}
#: A ratio in float32 is within two roundings of the one in float64.
_NEARLY: Final = 1 - 2.0**-21


def fits(reference: Array, candidate: Array) -> bool:
    """Whether the compiled pass can do it: equal dtype, C order, numba installed."""
    return (
        reference.dtype == candidate.dtype
        and reference.dtype.name in _KINDS
        and reference.dtype.isnative
        and reference.flags.c_contiguous
        and candidate.flags.c_contiguous
        and find_spec("numba") is not None
    )


class _Part:
    """What one part of the work adds to."""

    def __init__(self, rows: int, columns: int) -> None:
        self.histogram = np.zeros(BUCKETS, np.int64)
        self.by_column = np.zeros((2, columns))
        self.by_row = np.zeros((2, rows))


def measure_native(reference: Array, candidate: Array) -> Moments | None:
    """As `measure`, for tensors that `fits`; None if a value is not finite."""
    columns = reference.shape[-1] if reference.ndim else 1
    rows = reference.size // columns
    work = list(tiles(rows, columns))
    numbers = np.array([(t.row, t.rows, t.column) for t in work], np.int64)
    out: dict[str, Array] = {
        "sums": np.zeros((len(work), 5)),
        "maxima": np.zeros((len(work), 2)),
        "ulps": np.zeros(len(work), np.int64),
        "bad": np.zeros(len(work), np.uint8),
        "blocks": np.zeros((len(work), len(BLOCKS), 3)),
    }
    moments = Moments(rows, columns)
    differing = _run(reference, candidate, moments, numbers, out)
    if out["bad"].any():
        return None
    moments.elements, moments.differing = reference.size, differing
    moments.max_ulp = int(out["ulps"].max())
    names = ("error", "error_sq", "reference_sq", "candidate_sq", "product")
    for column, name in enumerate(names):
        setattr(moments, name, out["sums"][:, column].tolist())
    for level, width in enumerate(BLOCKS):
        worst = out["blocks"][:, level]
        energy, row, start = worst[int(worst[:, 0].argmax())]
        if energy > 0:
            moments.worst_blocks[width] = (float(energy), int(row), int(start))
    if differing:
        _find_extremes(moments, work, out["maxima"], reference, candidate)
    return moments


def _run(
    reference: Array,
    candidate: Array,
    moments: Moments,
    numbers: Array,
    out: dict[str, Array],
) -> int:
    """Fill `out` and the histogram and profiles; returns how many elements differ."""
    from harness.compare.kernel import gather

    kind, bits = _KINDS[reference.dtype.name]
    first, second = (x.reshape(-1).view(bits) for x in (reference, candidate))
    rows, columns = moments.rows, moments.columns
    by_row = rows if moments.by_row is not None else 0
    by_column = columns if moments.by_column is not None else 0
    # Parts begin at a row's first tile, so that no two of them add to one row.
    starts = np.flatnonzero(numbers[:, 2] == 0)
    shared = len(starts) >= _PARTS
    pieces = starts if shared else np.arange(len(numbers))
    bounds = [*(int(p[0]) for p in np.array_split(pieces, _PARTS) if len(p))]
    ends = [*bounds[1:], len(numbers)]
    parts = [_Part(0 if shared else by_row, by_column) for _ in bounds]
    common = moments.by_row if shared and moments.by_row is not None else None

    def do(index: int) -> int:
        part = parts[index]
        return int(
            gather(
                first,
                second,
                kind,
                columns,
                bounds[index],
                numbers[bounds[index] : ends[index]],
                out["sums"],
                out["maxima"],
                out["ulps"],
                out["bad"],
                part.histogram,
                part.by_row if common is None else common,
                part.by_column,
                out["blocks"],
            )
        )

    with ThreadPoolExecutor(threads()) as pool:
        differing = sum(pool.map(do, range(len(bounds))))
    for part in parts:
        moments.histogram += part.histogram
        if moments.by_column is not None:
            moments.by_column += part.by_column
        if moments.by_row is not None and common is None:
            moments.by_row += part.by_row
    return differing


def threads() -> int:
    """Cores this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return max(1, min(_PARTS, len(os.sched_getaffinity(0))))
    return max(1, min(_PARTS, os.cpu_count() or 1))


def _find_extremes(
    moments: Moments, work: list[Any], maxima: Array, reference: Array, candidate: Array
) -> None:
    """Places of the largest errors: the tiles that hold them are looked at again."""
    first = reference.reshape(moments.rows, moments.columns)
    second = candidate.reshape(moments.rows, moments.columns)

    def look(number: int) -> None:
        tile = work[number]
        part = (
            slice(tile.row, tile.row + tile.rows),
            slice(tile.column, tile.column + tile.columns),
        )
        r, c = first[part].astype(np.float64), second[part].astype(np.float64)
        origin = tile.row * moments.columns + tile.column
        moments.add_extremes(origin, r, np.abs(c - r))

    look(int(maxima[:, 0].argmax()))
    largest = maxima[:, 1].max()
    for number in np.flatnonzero(maxima[:, 1] >= largest * _NEARLY):
        look(int(number))
        if np.isinf(moments.max_rel.value):
            break
