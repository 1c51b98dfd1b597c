"""Rows of logits: a few at a time, their normaliser and their most likely tokens."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from importlib.util import find_spec
from typing import Any, Final

import numpy as np

from harness.compare.native import NATIVE_FROM, threads

Array = np.ndarray[Any, np.dtype[Any]]

#: Elements worked on at a time.
_CHUNK: Final = 1 << 19
#: dtypes that float32 holds.
_NARROW: Final = ("float32", "float16", "bfloat16")


def compiled(rows: Array) -> bool:
    """Whether the compiled passes can be had, and are worth their start."""
    return (
        rows.dtype.name in _NARROW
        and rows.shape[1] >= 5
        and rows.size >= NATIVE_FROM
        and find_spec("numba") is not None
    )


def row_chunks(rows: int, width: int) -> Iterator[slice]:
    """Slices of rows of at most half a million elements together."""
    step = max(1, _CHUNK // max(width, 1))
    for start in range(0, rows, step):
        yield slice(start, min(start + step, rows))


def five_largest(rows: Array) -> Array:
    """Columns of the five largest of each row, in no order; of equal ones the first."""
    count = min(5, rows.shape[1])
    found: Array = np.argpartition(-rows, count - 1, axis=1)[:, :count]
    least = np.take_along_axis(rows, found, axis=1).min(axis=1, keepdims=True)
    for row in np.flatnonzero((rows >= least).sum(axis=1) > count):
        found[row] = np.argsort(-rows[row], kind="stable")[:count]
    return found


def row_normals(rows: Array) -> tuple[Array, Array]:
    """Of each row the logarithm of the sum of exp, and its most likely tokens.

    The first is the most likely, up to four others follow in no order. NaN where a row
    is not finite.
    """
    normals = np.zeros(len(rows))
    tops = np.zeros((len(rows), min(5, rows.shape[1])), np.int32)
    if compiled(rows):
        from harness.compare.kernel_logits import row_normals as compute

        def do(part: slice) -> None:
            narrow = np.ascontiguousarray(rows[part], dtype=np.float32)
            compute(narrow.view(np.int32), narrow, normals[part], tops[part])

        with ThreadPoolExecutor(threads()) as pool:
            list(pool.map(do, row_chunks(*rows.shape)))
        return normals, tops
    for part in row_chunks(*rows.shape):
        wide = rows[part].astype(np.float64)
        tops[part] = five_largest(wide)
        most = wide.argmax(axis=1)
        # The most likely first; where it stood, what was first.
        place = (tops[part] == most[:, None]).argmax(axis=1)
        tops[np.arange(part.start, part.stop), place] = tops[part, 0]
        tops[part, 0] = most
        with np.errstate(invalid="ignore"):
            high = wide.max(axis=1, keepdims=True)
            total = np.exp(wide - high).sum(axis=1)
            normals[part] = np.where(
                np.isfinite(wide).all(axis=1), high[:, 0] + np.log(total), np.nan
            )
    return normals, tops
