# ruff: noqa: ANN001, ANN201, ANN202, PLR0917, FURB136, ARG001
# mypy: ignore-errors
# Numba compiles this file: it wants plain arguments and selects, and its decorators and
# intrinsics are typed as what they are before compilation.
"""The loops, compiled by Numba: encode, amax and decode in one pass over memory.

Imported only by `compiled`, which decides whether to. Everything works on bits: float32
comes as uint32, bfloat16 as uint16 and float16 as int16, which is how `load` tells them
apart. All indices are unsigned, or LLVM would keep the code for negative ones and not
vectorise. The arithmetic is that of `fast`, and the tests hold both equal.
"""

from __future__ import annotations

import numpy as np
from llvmlite import ir
from numba import njit, types
from numba.extending import intrinsic, overload

from harness.numerics.fast import recipe
from harness.numerics.formats import element_format

U32 = np.uint32
U64 = np.uint64
#: How an element is encoded: see `Plan` in `compiled`.
FLOAT, WHOLE, TABLE = 0, 1, 2
_R = recipe(element_format("fp8_e4m3"), "saturate")
#: Block scales of NVFP4.
E4M3 = tuple(U32(value) for value in vars(_R).values())


@intrinsic
def bits_of(typing_context, x):
    """The bits of a float32."""

    def generate(context, builder, signature, arguments):
        return builder.bitcast(arguments[0], ir.IntType(32))

    return types.uint32(types.float32), generate


@intrinsic
def value_of(typing_context, x):
    """The float32 of bits."""

    def generate(context, builder, signature, arguments):
        return builder.bitcast(arguments[0], ir.FloatType())

    return types.float32(types.uint32), generate


@intrinsic
def right(typing_context, x, places):
    """`x >> places` in 32 bits; what Numba makes of it widens both to 64."""

    def generate(context, builder, signature, arguments):
        return builder.lshr(*arguments)

    return types.uint32(types.uint32, types.uint32), generate


@intrinsic
def left(typing_context, x, places):
    """`x << places` in 32 bits."""

    def generate(context, builder, signature, arguments):
        return builder.shl(*arguments)

    return types.uint32(types.uint32, types.uint32), generate


def load(x, i):
    """The element as float32; replaced by what follows when compiled."""


@overload(load)
def _load_of(x, i):
    if x.dtype == types.uint32:
        return lambda x, i: value_of(x[i])
    if x.dtype == types.uint16:
        return lambda x, i: value_of(U32(U32(x[i]) << U32(16)))
    return lambda x, i: half(x[i])


@njit(inline="always")
def half(stored):
    """float16 to float32: a product with 2**112 moves the exponent's bias."""
    bits = U32(stored)
    magnitude = U32(bits & U32(0x7FFF))
    wide = bits_of(value_of(U32(magnitude << U32(13))) * np.float32(2.0**112))
    special = U32(0x7F800000) if magnitude >= U32(0x7C00) else U32(0)
    sign = U32(U32(bits & U32(0x8000)) << U32(16))
    return value_of(U32(U32(wide | special) | sign))


@njit(inline="always")
def float_code(x, constants):
    """See `fast._chunk`; the constants are those of `fast.Recipe`, in order."""
    shift, half, rebias, normal, magic, largest, beyond, nan, sign, fnuz = constants
    bits = bits_of(x)
    magnitude = U32(bits & U32(0x7FFFFFFF))
    last = U32(right(magnitude, shift) & U32(1))
    code = U32(right(U32(U32(magnitude + last) + half), shift) - rebias)
    small = U32(bits_of(value_of(magnitude) + value_of(magic)) - magic)
    code = small if magnitude < normal else code
    code = beyond if code > largest else code
    minus = left(right(bits, U32(31)), sign)
    # FNUZ: neither zero nor NaN has a sign (elsewhere this constant is no code).
    minus = U32(0) if fnuz != U32(0) and (code == U32(0) or code == nan) else minus
    code = U32(code | minus)
    return nan if magnitude > U32(0x7F800000) else code


@njit(inline="always")
def whole_code(x, low, high, point, mask):
    """Adding 1.5 * 2**23 leaves the nearest whole number in the low bits."""
    inside = high if x > high else x
    inside = low if inside < low else inside
    inside = inside if x == x else np.float32(0)  # noqa: PLR0124 - NaN is not itself
    code = U32(bits_of(inside + np.float32(12582912.0)) + point)
    return U32(code & mask)


@njit(inline="always")
def float_constants(p):
    """Ten scalars: read from an array in a loop they would not stay in registers."""
    return (p[0], p[1], p[2], p[3], p[4], p[5], p[6], p[7], p[8], p[9])


@njit(inline="always")
def fifteen(t):
    """Scalars, as `float_constants`."""
    low = (t[0], t[1], t[2], t[3], t[4], t[5], t[6])
    high = (t[8], t[9], t[10], t[11], t[12], t[13], t[14])
    return low, t[7], high


@njit(inline="always")
def table_code(x, steps):
    """How many of the fifteen thresholds the value reaches, written out."""
    (a, b, c, d, e, f, g), h, (i, j, k, l, m, n, o) = steps  # noqa: E741
    code = U32(x >= a) + U32(x >= b) + U32(x >= c) + U32(x >= d) + U32(x >= e)
    code += U32(x >= f) + U32(x >= g) + U32(x >= h) + U32(x >= i) + U32(x >= j)
    code += U32(x >= k) + U32(x >= l) + U32(x >= m) + U32(x >= n) + U32(x >= o)
    return U32(code)


@njit(inline="always")
def encode_run(x, codes, base, count, scale, kind, p, limits, point):
    """Codes of `count` values from `base` on, all with the same scale."""
    if kind == FLOAT:
        constants = float_constants(p)
        for i in range(count):
            ratio = load(x, base + U64(i)) / scale
            codes[base + U64(i)] = float_code(ratio, constants)
    elif kind == WHOLE:
        low = np.float32(limits[0] - np.float32(point))
        high = np.float32(limits[1] - np.float32(point))
        offset, mask = U32(point), p[0]
        for i in range(count):
            ratio = load(x, base + U64(i)) / scale
            codes[base + U64(i)] = whole_code(ratio, low, high, offset, mask)
    else:
        steps, nan = fifteen(limits), p[0]
        for i in range(count):
            ratio = load(x, base + U64(i)) / scale
            code = table_code(ratio, steps)
            codes[base + U64(i)] = code if ratio == ratio else nan  # noqa: PLR0124


@njit(inline="always")
def _row(row, length, tall):
    """The row of scales that a row uses."""
    if tall == 1:
        return U64(row)
    outer = row // length
    return U64(outer * ((length + tall - 1) // tall) + (row - outer * length) // tall)


@njit(nogil=True, error_model="numpy", cache=True)
def encode_rows(
    x, codes, rows, inner, wide, first, length, tall, scales, points, kind, p, limits
):
    """Encode rows with given scales.

    Args:
        x: bits, flat: `rows` x `inner`.
        codes: written, flat.
        rows: number of rows.
        inner: length of a row.
        wide: elements of a row that share a scale.
        first: number of the first row.
        length: rows before the groups begin anew.
        tall: rows that share a row of scales.
        scales: float32, flat.
        points: int32 zero points like the scales, or empty.
        kind: FLOAT, WHOLE or TABLE.
        p: uint32 constants of the element.
        limits: float32: bounds of WHOLE, thresholds of TABLE.
    """
    groups = U64((inner + wide - 1) // wide)
    for r in range(rows):
        group = U64(_row(first + r, length, tall) * groups)
        for start in range(0, inner, wide):
            count = min(wide, inner - start)
            base = U64(U64(r) * U64(inner) + U64(start))
            point = points[group] if points.size else np.int32(0)
            encode_run(x, codes, base, count, scales[group], kind, p, limits, point)
            group += U64(1)


@njit(nogil=True, error_model="numpy", cache=True)
def encode_columns(
    x, codes, rows, inner, first, length, tall, scales, points, kind, p, limits
):
    """As `encode_rows`, but every column has its own scale."""
    for r in range(rows):
        base, group = (
            U64(U64(r) * U64(inner)),
            U64(_row(first + r, length, tall) * U64(inner)),
        )
        if kind == FLOAT:
            constants = float_constants(p)
            for i in range(inner):
                ratio = load(x, base + U64(i)) / scales[group + U64(i)]
                codes[base + U64(i)] = float_code(ratio, constants)
        elif kind == WHOLE and not points.size:
            for i in range(inner):
                ratio = load(x, base + U64(i)) / scales[group + U64(i)]
                code = whole_code(ratio, limits[0], limits[1], U32(0), p[0])
                codes[base + U64(i)] = code
        else:
            for i in range(inner):
                at = group + U64(i)
                point = points[at] if points.size else np.int32(0)
                encode_run(
                    x, codes, base + U64(i), 1, scales[at], kind, p, limits, point
                )


@njit(nogil=True, error_model="numpy", cache=True)
def amax_rows(x, rows, inner, wide, first, length, tall, out):
    """Largest bits of the magnitudes of each group, maximised into `out` (uint32).

    NaN is larger than Inf, and Inf than every number, as their bits are.
    """
    groups = U64((inner + wide - 1) // wide)
    for r in range(rows):
        group = U64(_row(first + r, length, tall) * groups)
        for start in range(0, inner, wide):
            base = U64(U64(r) * U64(inner) + U64(start))
            largest = out[group]
            for i in range(min(wide, inner - start)):
                found = U32(bits_of(load(x, base + U64(i))) & U32(0x7FFFFFFF))
                largest = found if found > largest else largest
            out[group] = largest
            group += U64(1)


@njit(nogil=True, error_model="numpy", cache=True)
def amax_columns(x, rows, inner, first, length, tall, out):
    """As `amax_rows`, but every column is its own group."""
    for r in range(rows):
        base, group = (
            U64(U64(r) * U64(inner)),
            U64(_row(first + r, length, tall) * U64(inner)),
        )
        for i in range(inner):
            found = U32(bits_of(load(x, base + U64(i))) & U32(0x7FFFFFFF))
            largest = out[group + U64(i)]
            out[group + U64(i)] = found if found > largest else largest


@njit(nogil=True, error_model="numpy", cache=True)
def decode_rows(
    codes, out, rows, inner, wide, first, length, tall, scales, points, table
):
    """Table entry (less the zero point) times the group's scale, as float32."""
    groups = U64((inner + wide - 1) // wide)
    for r in range(rows):
        group = U64(_row(first + r, length, tall) * groups)
        for start in range(0, inner, wide):
            base = U64(U64(r) * U64(inner) + U64(start))
            scale = scales[group]
            point = np.float32(points[group]) if points.size else np.float32(0)
            for i in range(min(wide, inner - start)):
                value = table[codes[base + U64(i)]]
                # Minus zero stays: x - 0 is x.
                out[base + U64(i)] = np.float32(value - point) * scale
            group += U64(1)


@njit(nogil=True, error_model="numpy", cache=True)
def decode_columns(codes, out, rows, inner, first, length, tall, scales, points, table):
    """As `decode_rows`, but every column has its own scale."""
    for r in range(rows):
        base, group = (
            U64(U64(r) * U64(inner)),
            U64(_row(first + r, length, tall) * U64(inner)),
        )
        if points.size:
            for i in range(inner):
                at = group + U64(i)
                value = table[codes[base + U64(i)]] - np.float32(points[at])
                out[base + U64(i)] = np.float32(value) * scales[at]
        else:
            for i in range(inner):
                value = table[codes[base + U64(i)]]
                out[base + U64(i)] = value * scales[group + U64(i)]
