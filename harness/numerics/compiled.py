"""Whether the compiled loops are used, and how an array is handed to them.

They are used for arrays large enough to pay for loading them, when Numba (the extra
`numba`) is installed and `QUANTHARNESS_COMPILED` is not 0. Results are the same bits
either way. Work is shared between threads by rows; the loops release the interpreter.
"""

from __future__ import annotations

import importlib.util
import os
import threading
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from itertools import pairwise
from types import ModuleType
from typing import Any, Final

import numpy as np

from harness.numerics.fast import recipe
from harness.numerics.formats import Format, element_format
from harness.numerics.grid import Grid

Array = np.ndarray[Any, np.dtype[Any]]
#: Elements from which on the loops are worth loading (about a second the first time).
LARGE: Final = 1 << 20
#: Elements below which another thread costs more than it saves.
_PER_THREAD: Final = 1 << 18
_BITS: Final = {"float32": np.uint32, "bfloat16": np.uint16, "float16": np.int16}
_threads = 0


def set_threads(count: int) -> None:
    """Threads that large arrays are shared between; 0: as many as there are cores."""
    global _threads  # noqa: PLW0603 - a process-wide setting, like torch's
    _threads = max(int(count), 0)


def threads() -> int:
    """Threads in use."""
    return _threads or len(os.sched_getaffinity(0))


def available() -> bool:
    """Whether the compiled loops can be used at all."""
    off = os.environ.get("QUANTHARNESS_COMPILED", "1") == "0"
    return not off and _installed()


@cache
def _installed() -> bool:
    return importlib.util.find_spec("numba") is not None


def loops(view: Array) -> ModuleType | None:
    """The compiled loops, if they can take this array and it is worth it."""
    # Decoding hands over codes, encoding values of the three types they know.
    known = view.dtype.name in _BITS or view.dtype == np.uint8
    if view.size < LARGE or not known or not available():
        return None
    from harness.numerics import kernels

    return kernels


@dataclass(frozen=True, eq=False)
class Plan:
    """An element format as the loops take it."""

    kind: int
    p: Array
    limits: Array


@cache
def plan(element: Format, overflow: str) -> Plan:
    """Constants of an element: see `kernels.encode_rows`."""
    p = np.zeros(12, np.uint32)
    limits = np.zeros(16, np.float32)
    if element.kind == "int":
        p[0] = (1 << element.bits) - 1
        limits[0] = -(1 << (element.bits - 1)) if element.signed else 0
        limits[1] = element.max
        return Plan(1, p, limits)
    if element.kind == "table":
        p[0] = element.nan_result
        limits[:15] = _thresholds(element)
        return Plan(2, p, limits)
    p[:10] = [int(value) for value in vars(recipe(element, overflow)).values()]
    return Plan(0, p, limits)


def _thresholds(element: Format) -> Array:
    """Smallest float32 that rounds up past each code; a tie goes to the even code."""
    values = np.array(element.values)
    middles = (values[1:] + values[:-1]) / 2
    nearest = middles.astype(np.float32)
    after = np.nextafter(nearest, np.float32(np.inf))
    upward = np.arange(middles.size) % 2 == 1
    reached = (nearest > middles) | ((nearest == middles) & upward)
    thresholds: Array = np.where(reached, nearest, after)
    return thresholds


def can_encode(element: Format, rounding: str) -> bool:
    """Whether the loops know the element and the mode."""
    return rounding == "nearest_even" and element.kind != "scale"


def bits(view: Array) -> Array:
    """The flat bits that the loops read."""
    flat: Array = view.reshape(-1)
    read: Array = flat.view(_BITS.get(view.dtype.name, view.dtype))
    return read


@dataclass(frozen=True)
class Rows:
    """A grid as rows: each has groups of `wide`, or every column is a group."""

    rows: int
    inner: int
    wide: int
    columns: bool
    #: Rows before the groups begin anew.
    length: int
    #: Rows that share a row of scales.
    tall: int


def as_rows(grid: Grid) -> Rows:
    """The grid as rows, short ones if that does not change the groups."""
    outer, length, inner = grid.view
    rows, tall, wide = outer * length, grid.tall, grid.wide
    if tall == 1 and inner % wide == 0:
        rows, inner = rows * (inner // wide), wide
        length = rows
    piece = 1 << 16
    if rows == 1 and grid.groups == (1, 1, 1) and inner % piece == 0:
        # One group: any rows of it will do, so that threads can share them.
        rows, inner, wide = inner // piece, piece, piece
        length = tall = rows
    return Rows(rows, inner, wide, wide == 1 and inner > 1, length, tall)


def share(rows: int, size: int, work: Callable[[slice], None]) -> None:
    """Call `work` on slices of the rows, in threads where that pays.

    Raises:
        Exception: the first that any thread raised.
    """
    count = max(min(threads(), rows, size // _PER_THREAD), 1)
    edges = [rows * i // count for i in range(count + 1)]
    parts = [slice(a, b) for a, b in pairwise(edges)]
    failures: list[BaseException] = []

    def run(part: slice) -> None:
        try:
            work(part)
        except BaseException as error:  # noqa: BLE001 - raised again by the caller
            failures.append(error)

    others = [threading.Thread(target=run, args=(part,)) for part in parts[1:]]
    for other in others:
        other.start()
    run(parts[0])
    for other in others:
        other.join()
    if failures:
        raise failures[0]


def amax_bits(kernels: ModuleType, view: Array, grid: Grid) -> Array:
    """uint32 bits of the largest magnitude of each group, NaN and Inf included."""
    r, flat = as_rows(grid), bits(view)
    groups = int(np.prod(grid.groups))
    partial: list[Array] = []

    def work(part: slice) -> None:
        found = np.zeros(groups, np.uint32)
        partial.append(found)
        x = _locked(flat[part.start * r.inner : part.stop * r.inner])
        place = (part.start, r.length, r.tall)
        rows = part.stop - part.start
        if r.columns:
            kernels.amax_columns(x, rows, r.inner, *place, found)
        else:
            kernels.amax_rows(x, rows, r.inner, r.wide, *place, found)

    share(r.rows, view.size, work)
    largest: Array = np.maximum.reduce(partial)
    return largest.reshape(grid.groups)


def encode_scaled(
    kernels: ModuleType,
    view: Array,
    grid: Grid,
    total: Array,
    *,
    points: Array | None,
    element: Format,
    overflow: str,
) -> Array:
    """Codes of values divided by the scales given; see `engine.encode_scaled`."""
    r, flat, made = as_rows(grid), bits(view), plan(element, overflow)
    codes = np.empty(view.size, np.uint16 if element.bits == 16 else np.uint8)
    scales = np.ascontiguousarray(total).reshape(-1)
    zero = _points(points)

    def work(part: slice) -> None:
        span = slice(part.start * r.inner, part.stop * r.inner)
        place = (part.start, r.length, r.tall)
        rows = part.stop - part.start
        head = (_locked(flat[span]), codes[span], rows, r.inner)
        tail = (*place, scales, zero, made.kind, made.p, made.limits)
        if r.columns:
            kernels.encode_columns(*head, *tail)
        else:
            kernels.encode_rows(*head, r.wide, *tail)

    share(r.rows, view.size, work)
    return codes.reshape(view.shape)


def decode_scaled(
    kernels: ModuleType,
    codes: Array,
    grid: Grid,
    total: Array,
    *,
    points: Array | None,
    element: Format,
) -> Array:
    """float32 values of codes; see `engine.decode_scaled`."""
    r, flat = as_rows(grid), codes.reshape(-1)
    out = np.empty(codes.size, np.float32)
    scales = np.ascontiguousarray(total).reshape(-1)
    zero = _points(points)

    def work(part: slice) -> None:
        span = slice(part.start * r.inner, part.stop * r.inner)
        place = (part.start, r.length, r.tall)
        rows = part.stop - part.start
        head = (_locked(flat[span]), out[span], rows, r.inner)
        tail = (*place, scales, zero, element.decoded)
        if r.columns:
            kernels.decode_columns(*head, *tail)
        else:
            kernels.decode_rows(*head, r.wide, *tail)

    share(r.rows, codes.size, work)
    return out.reshape(codes.shape)


def _locked(array: Array) -> Array:
    """A read-only view: Numba compiles once more for what can be written."""
    view = array.view()
    view.flags.writeable = False
    return view


def _points(points: Array | None) -> Array:
    if points is None:
        return np.empty(0, np.int32)
    return np.ascontiguousarray(points, dtype=np.int32).reshape(-1)


def quantize_rows(
    view: Array,
    grid: Grid,
    element: Format,
    *,
    overflow: str,
    mode: str,
    constants: tuple[float, float, float],
    addend: int,
    point: int | None,
) -> tuple[Array, Array | None, Array]:
    """Scales, zero points and codes in one pass, where groups lie within rows.

    Args:
        view: the values.
        grid: with `tall` 1.
        element: the element format.
        overflow: checked rule.
        mode: "power", "divide", "nvfp4" or "range".
        constants: largest value, tensor's scale and smallest scale.
        addend: "power": added to amax's bits before the exponent is taken.
        point: "divide": the zero point of every group, or None.
    """
    from harness.numerics import kernels_quantize as kernels

    r, flat, made = as_rows(grid), bits(view), plan(element, overflow)
    p = made.p.copy()
    if mode == "power":
        p[10], p[11] = addend, max(element.emax, 0)
    p[9] = p[9] if point is None else point
    per_row = -(-r.inner // r.wide)
    scales = np.empty(r.rows * per_row, np.float32)
    pointed = mode == "range" or point is not None
    points = np.empty(scales.size if pointed else 0, np.int32)
    codes = np.empty(view.size, np.uint16 if element.bits == 16 else np.uint8)
    number = ("power", "divide", "nvfp4", "range").index(mode)
    arrays = (
        np.array(constants, np.float32),
        element_format("fp8_e4m3").decoded,
        made.limits,
    )

    def work(part: slice) -> None:
        span = slice(part.start * r.inner, part.stop * r.inner)
        groups = slice(part.start * per_row, part.stop * per_row)
        kernels.quantize_rows(
            _locked(flat[span]),
            codes[span],
            part.stop - part.start,
            r.inner,
            r.wide,
            scales[groups],
            points[groups],
            number,
            element.nan_code is not None,
            made.kind,
            p,
            arrays,
        )

    share(r.rows, view.size, work)
    zero = points.reshape(grid.groups) if pointed else None
    return scales.reshape(grid.groups), zero, codes.reshape(view.shape)
