# ruff: noqa: ANN001, ANN201, ANN202, ARG001, ARG005, PLR0917, FURB136
# mypy: ignore-errors
"""The fused loops, compiled by Numba: scales and codes in one pass over memory.

Imported only by `compiled`. Numba's cache on disk is renewed by a file's own date, not
by that of what it imports: after a change to `kernels` touch this file too (the tests
keep a cache for each content of both).
"""

from __future__ import annotations

import numpy as np
from llvmlite import ir
from numba import njit, types
from numba.core import cgutils
from numba.extending import intrinsic, overload

from harness.numerics.kernels import (
    E4M3,
    FLOAT,
    U32,
    U64,
    WHOLE,
    bits_of,
    encode_run,
    float_code,
    half,
    load,
    value_of,
)

#: How a group's scale follows: from amax as a power of two, by division or as NVFP4
#: says; from the smallest and the largest value.
POWER, DIVIDE, NVFP4, RANGE = 0, 1, 2, 3
#: Elements of the groups whose scales are computed side by side.
TILE = 4096


@njit
def _finite(x, base, count):
    """Bits of the largest finite magnitude, and whether there is a NaN."""
    largest, nan = U32(0), False
    for i in range(count):
        found = U32(bits_of(load(x, base + U64(i))) & U32(0x7FFFFFFF))
        nan |= found > U32(0x7F800000)
        found = found if found < U32(0x7F800000) else U32(0)
        largest = found if found > largest else largest
    return largest, nan


def _peak(lanes):
    """A loop over that many elements as one vector operation.

    Left to itself LLVM unrolls the short loop into jumps that random values mislead.
    """

    @intrinsic
    def peak(typing_context, x, start):
        """Largest magnitude of elements, as bits of their own type."""
        width = x.dtype.bitwidth

        def generate(context, builder, signature, arguments):
            array = context.make_array(signature.args[0])(
                context, builder, arguments[0]
            )
            lane = ir.IntType(width)
            vector = ir.VectorType(lane, lanes)
            address = builder.gep(array.data, [arguments[1]])
            address = builder.bitcast(address, vector.as_pointer())
            mask = ir.Constant(vector, [(1 << (width - 1)) - 1] * lanes)
            found = builder.and_(builder.load(address, align=width // 8), mask)
            reduce = cgutils.get_or_insert_function(
                builder.module,
                ir.FunctionType(lane, [vector]),
                f"llvm.vector.reduce.umax.v{lanes}i{width}",
            )
            result = builder.call(reduce, [found])
            wide = ir.IntType(32)
            return result if width == 32 else builder.zext(result, wide)

        return types.uint32(x, types.uint64), generate

    return peak


_peak16, _peak32 = _peak(16), _peak(32)


def widened(x, bits):
    """float32 bits of a magnitude's bits; replaced by what follows when compiled."""


@overload(widened)
def _widened_of(x, bits):
    if x.dtype == types.uint32:
        return lambda x, bits: bits
    if x.dtype == types.uint16:
        return lambda x, bits: U32(bits << U32(16))
    return lambda x, bits: bits_of(half(bits))


@njit
def _amaxes(x, base, count, wide, made, marks):
    """Largest finite magnitudes of groups into `made`, NaN into `marks`."""
    if wide == U64(16):
        for g in range(count):
            made[g] = widened(x, _peak16(x, base + U64(g) * U64(16)))
    elif wide == U64(32):
        for g in range(count):
            made[g] = widened(x, _peak32(x, base + U64(g) * U64(32)))
    else:
        for g in range(count):
            peak = U32(0)
            for i in range(wide):
                found = U32(bits_of(load(x, base + U64(g) * wide + U64(i))))
                found = U32(found & U32(0x7FFFFFFF))
                peak = found if found > peak else peak
            made[g] = peak
    largest = U32(0)
    for g in range(count):
        largest = made[g] if made[g] > largest else largest
    special = largest >= U32(0x7F800000)
    for g in range(count if special else 0):
        made[g], marks[g] = _finite(x, base + U64(g) * wide, wide)
    return special


@njit
def _ranges(x, base, count, wide, made, below, marks):
    """Bits of the largest finite value and of the smallest one's magnitude."""
    special = False
    for g in range(count):
        high, low, any_ = U32(0), U32(0), U32(0)
        for i in range(wide):
            bits = bits_of(load(x, base + U64(g) * wide + U64(i)))
            magnitude = U32(bits & U32(0x7FFFFFFF))
            above = bits if bits < U32(0x7F800000) else U32(0)
            under = magnitude if bits > U32(0x80000000) else U32(0)
            under = under if magnitude < U32(0x7F800000) else U32(0)
            high = above if above > high else high
            low = under if under > low else low
            any_ = magnitude if magnitude > any_ else any_
        made[g], below[g], marks[g] = high, low, any_ > U32(0x7F800000)
        special |= marks[g]
    return special


@njit
def _scale(made, below, scales, points, divisors, first, count, mode, p, arrays):
    """Scales (and zero points) of groups, and what their values are divided by."""
    constants, table, limits = arrays
    largest, tensor, smallest = constants[0], constants[1], constants[2]
    if mode == POWER:
        addend, emax = p[10], np.int32(p[11])
        for i in range(count):
            code = np.int32(U32(made[i] + addend) >> U32(23)) - emax
            code = max(min(code, np.int32(254)), np.int32(0))
            bits = U32(U32(code) << U32(23)) if code > 0 else U32(1 << 22)
            scales[first + U64(i)] = divisors[i] = value_of(bits)
    elif mode == NVFP4:
        for i in range(count):
            code = float_code(value_of(made[i]) / largest / tensor, E4M3)
            scale = table[code]
            scale = scale if scale > smallest else smallest
            scales[first + U64(i)] = scale
            divisors[i] = scale * tensor
    elif mode == DIVIDE:
        for i in range(count):
            scale = value_of(made[i]) / largest
            scale = scale if scale > np.float32(0) else np.float32(1)
            scales[first + U64(i)] = divisors[i] = scale
        for i in range(count if points.size else 0):
            points[first + U64(i)] = np.int32(p[9])
    else:
        half, magic = np.float32(0.5), np.float32(12582912.0)
        steps = np.float32(limits[1] - limits[0]) * half
        for i in range(count):
            high, low = value_of(made[i]), value_of(below[i])
            scale = np.float32(high * half + low * half) / steps
            scale = scale if scale > np.float32(0) else np.float32(1)
            point = np.float32(limits[0] + low / scale)
            point = np.float32(np.float32(point + magic) - magic)
            point = min(point, limits[1])
            scales[first + U64(i)] = divisors[i] = scale
            points[first + U64(i)] = np.int32(point)


@njit
def _encode(x, codes, base, first, count, wide, divisors, points, kind, p, limits):
    """Codes of groups; a known length is what vectorises short ones."""
    zero, none = np.int32(0), points.size == 0
    if kind == FLOAT and wide == U64(16):
        for g in range(count):
            at = base + U64(g) * U64(16)
            encode_run(x, codes, at, U64(16), divisors[g], FLOAT, p, limits, zero)
    elif kind == FLOAT and wide == U64(32):
        for g in range(count):
            at = base + U64(g) * U64(32)
            encode_run(x, codes, at, U64(32), divisors[g], FLOAT, p, limits, zero)
    elif kind == WHOLE and wide == U64(32):
        for g in range(count):
            at, point = base + U64(g) * U64(32), zero
            if not none:
                point = points[first + U64(g)]
            encode_run(x, codes, at, U64(32), divisors[g], WHOLE, p, limits, point)
    else:
        for g in range(count):
            at, point = base + U64(g) * wide, zero
            if not none:
                point = points[first + U64(g)]
            encode_run(x, codes, at, wide, divisors[g], kind, p, limits, point)


@njit
def _tile(x, codes, base, first, count, wide, result, held, how, p, arrays):
    """Scales and codes of whole groups, one after the other, that fit a cache."""
    made, below, marks, divisors = held
    scales, points = result
    mode, has_nan, kind = how
    if mode == RANGE:
        special = _ranges(x, base, count, wide, made, below, marks)
    else:
        special = _amaxes(x, base, count, wide, made, marks)
    _scale(made, below, scales, points, divisors, first, count, mode, p, arrays)
    for g in range(count if special and not has_nan else 0):
        if marks[g]:
            scales[first + U64(g)] = divisors[g] = np.float32(np.nan)
    _encode(x, codes, base, first, count, wide, divisors, points, kind, p, arrays[2])


@njit(nogil=True, error_model="numpy", cache=True)
def quantize_rows(
    x, codes, rows, inner, wide, scales, points, mode, has_nan, kind, p, arrays
):
    """Scales and codes of groups along rows, each group read from memory once.

    Args:
        x: bits, flat: `rows` x `inner`.
        codes: written, flat.
        rows: number of rows.
        inner: length of a row.
        wide: elements of a row that share a scale.
        scales: float32, written.
        points: int32 zero points, written, or empty.
        mode: POWER, DIVIDE, NVFP4 or RANGE.
        has_nan: whether the element has a NaN; if not, a group's scale becomes it.
        kind: FLOAT, WHOLE or TABLE.
        p: uint32 constants of the element, the zero point of DIVIDE at 9, then the
            addend and the emax of POWER.
        arrays: float32: the element's largest value, the tensor's scale and the
            smallest scale; E4M3 values; bounds of WHOLE or thresholds of TABLE.
    """
    most = max(TILE // wide, 1)
    bits, marks = np.empty((2, most), np.uint32), np.empty(most, np.bool_)
    held = (bits[0], bits[1], marks, np.empty(most, np.float32))
    how, made = (mode, has_nan, kind), (scales, points)
    if inner % wide == 0:
        # Groups that fill their rows lie one after the other.
        rows, inner = 1, rows * inner
    group, whole, tail = U64(0), inner // wide, inner % wide
    for r in range(rows):
        base = U64(r) * U64(inner)
        for start in range(0, whole, most):
            count, size = min(most, whole - start), U64(wide)
            at = base + U64(start) * size
            _tile(x, codes, at, group, count, size, made, held, how, p, arrays)
            group += U64(count)
        if tail:
            at = base + U64(whole) * U64(wide)
            size = U64(tail)
            _tile(x, codes, at, group, 1, size, made, held, how, p, arrays)
            group += U64(1)
