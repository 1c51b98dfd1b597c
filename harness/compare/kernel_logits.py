# ruff: noqa: ANN001, ANN201, ANN202, ARG001, PLR0917 - numba infers the types and
# names the arguments; loops are written out so that they vectorise.
# mypy: allow-untyped-defs, allow-untyped-decorators, allow-untyped-calls
"""Divergences of whole rows of float32 logits, compiled. Needs numba (extra `fast`).

exp and log are polynomials in float64 that vectorise, within 2**-50 of the true values:
interpolated at Chebyshev's nodes, whose error is spread evenly over the interval.
"""

from __future__ import annotations

from typing import Any, Final

import numba as nb
import numpy as np
from numba.core import types
from numba.extending import intrinsic

Array = np.ndarray[Any, np.dtype[Any]]

#: Elements whose largest decides whether they are looked at for the five largest.
BLOCK: Final = 128

_LOG2E: Final = 1.4426950408889634
# ln 2 in two parts, so that k ln 2 is exact in the first.
_LN2_HIGH: Final = 6.93147180369123816490e-01
_LN2_LOW: Final = 1.90821492927058770002e-10
#: Adding 1.5 * 2**52 rounds to an integer and leaves it in the lowest bits.
_ROUND: Final = 6755399441055744.0

# Sums may be reassociated; the rounding trick may not, so it has its own functions.
_sums = nb.njit(
    nogil=True, cache=True, error_model="numpy", fastmath={"reassoc", "contract"}
)
_exact = nb.njit(nogil=True, cache=True, error_model="numpy", fastmath={"contract"})


@intrinsic
def _bits(typing, x):
    """The bits of a float64."""

    def build(context, builder, _signature, arguments):
        return builder.bitcast(arguments[0], context.get_value_type(types.int64))

    return types.int64(types.float64), build


@intrinsic
def _float(typing, x):
    """The float64 of these bits."""

    def build(context, builder, _signature, arguments):
        return builder.bitcast(arguments[0], context.get_value_type(types.float64))

    return types.float64(types.int64), build


@_exact
def exp(x):
    """The exponential of x in [-700, 0], within 2**-52."""
    rounded = x * _LOG2E + _ROUND
    k = rounded - _ROUND
    r = (x - k * _LN2_HIGH) - k * _LN2_LOW
    # |r| <= ln 2 / 2: within 2**-57 before rounding.
    p = 2.5110037716573578e-08
    p = p * r + 2.763263978288121e-07
    p = p * r + 2.7557240918280047e-06
    p = p * r + 2.4801485481939763e-05
    p = p * r + 0.00019841269890047392
    p = p * r + 0.0013888888952315137
    p = p * r + 0.008333333333319601
    p = p * r + 0.04166666666648809
    p = p * r + 0.1666666666666668
    p = p * r + 0.5000000000000019
    p = p * r + 1.0
    p = p * r + 1.0
    return p * _float((_bits(rounded) + 1023) << 52)


@_exact
def log(x):
    """The logarithm of a normal x > 0, within 2**-50 of the larger of 1 and itself."""
    b = _bits(x)
    # So that the mantissa falls into [sqrt(1/2), sqrt(2)).
    e = (b - 0x3FE6A09E667F3BCD) >> 52
    f = _float(b - (e << 52))
    # Exponent plus 2048 as the lowest bits of 2**52: a float without a conversion.
    k = _float(0x4330000000000000 | (e + 2048)) - 4503599627372544.0  # 2**52 + 2048
    s = (f - 1.0) / (f + 1.0)
    z = s * s
    # 2 artanh(s) / s for s^2 <= (3 - sqrt(8))^2: within 2**-59 before rounding.
    p = 0.14809710360655276
    p = p * z + 0.1531252814836419
    p = p * z + 0.18183631680229329
    p = p * z + 0.22222197056726048
    p = p * z + 0.2857142876064168
    p = p * z + 0.3999999999930234
    p = p * z + 0.6666666666666765
    p = p * z + 2.0
    return k * _LN2_HIGH + (p * s + k * _LN2_LOW)


@_sums
def _block_maxima(row, width, maxima):
    """Largest place in order of each block; returns whether one is not finite."""
    worst = np.int32(0)
    for block in range(len(maxima)):
        start = block * BLOCK
        part = row[start : min(start + BLOCK, width)]
        most = np.int32(-0x80000000)
        for i in range(len(part)):
            b = part[i]
            place = b ^ ((b >> np.int32(31)) & np.int32(0x7FFFFFFF))
            most = max(most, place)
            worst = max(worst, b & np.int32(0x7FFFFFFF))
        maxima[block] = most
    return worst >= np.int32(0x7F800000)


@_sums
def _five(row, width, maxima, top):
    """Columns of the five largest, in order; of equal ones the first."""
    best = np.full(5, -0x80000001, np.int64)
    top[:] = 0
    for block in range(len(maxima)):
        if maxima[block] <= best[4]:
            continue
        start = block * BLOCK
        for i in range(start, min(start + BLOCK, width)):
            b = row[i]
            place = np.int64(b ^ ((b >> np.int32(31)) & np.int32(0x7FFFFFFF)))
            if place <= best[4]:
                continue
            k = 4
            while k > 0 and place > best[k - 1]:
                best[k], top[k] = best[k - 1], top[k - 1]
                k -= 1
            best[k], top[k] = place, i


@_sums
def _total(x, high):
    """Sum of exp(x - high)."""
    total = 0.0
    for i in range(len(x)):
        total += exp(max(np.float64(x[i]) - high, -700.0))
    return total


@_sums
def _weigh(a, b, high_a, high_b, p, q):
    """Weights of two rows, into `p` and `q`, and the six sums over them.

    A function of its own, because beside more arrays LLVM would not vectorise.
    """
    total_a, total_b, own_a, own_b, cross_a, cross_b = 0.0, 0.0, 0.0, 0.0, 0.0, 0.0
    for i in range(len(a)):
        u = max(np.float64(a[i]) - high_a, -700.0)
        v = max(np.float64(b[i]) - high_b, -700.0)
        x, y = exp(u), exp(v)
        p[i], q[i] = x, y
        total_a += x
        total_b += y
        own_a += x * u
        own_b += y * v
        cross_a += x * (u - v)
        cross_b += y * (v - u)
    return total_a, total_b, own_a, own_b, cross_a, cross_b


@_sums
def _mixed(p, q, scale_a, scale_b):
    """Sum of m log(m) of the mixture m of two rows of weights."""
    total = 0.0
    for i in range(len(p)):
        mean = p[i] * scale_a + q[i] * scale_b
        total += mean * log(max(mean, 1e-300))
    return total


@_sums
def row_normals(bits, x, normals, tops):
    """Logarithm of the sum of exp of each row, and its five largest.

    Args:
        bits: (rows, width) int32 bits of the float32 logits.
        x: the same as float32.
        normals: (rows,) out; NaN where a row is not finite.
        tops: (rows, 5) out: columns of the five largest.
    """
    rows, width = x.shape
    maxima = np.empty((width + BLOCK - 1) // BLOCK, np.int32)
    for row in range(rows):
        if _block_maxima(bits[row], width, maxima):
            normals[row] = np.nan
            continue
        _five(bits[row], width, maxima, tops[row])
        high = np.float64(x[row, tops[row, 0]])
        normals[row] = high + np.log(_total(x[row], high))


@_sums
def row_divergences(a_bits, b_bits, a, b, found, tops):
    """KL(p||q), KL(q||p), JS and the normalisers of each row.

    Args:
        a_bits: (rows, width) int32 bits of the reference's float32 logits.
        b_bits: the candidate's.
        a: the same as float32.
        b: the same as float32.
        found: (rows, 3) out; NaN where a row is not finite.
        tops: (rows, 2, 5) out: columns of the five largest of each side.
    """
    rows, width = a.shape
    blocks = (width + BLOCK - 1) // BLOCK
    first, second = np.empty(blocks, np.int32), np.empty(blocks, np.int32)
    p, q = np.empty(width), np.empty(width)
    for row in range(rows):
        bad = _block_maxima(a_bits[row], width, first)
        bad |= _block_maxima(b_bits[row], width, second)
        if bad:
            found[row, :] = np.nan
            continue
        _five(a_bits[row], width, first, tops[row, 0])
        _five(b_bits[row], width, second, tops[row, 1])
        row_a, row_b = a[row], b[row]
        high_a = np.float64(row_a[tops[row, 0, 0]])
        high_b = np.float64(row_b[tops[row, 1, 0]])
        total_a, total_b, own_a, own_b, cross_a, cross_b = _weigh(
            row_a, row_b, high_a, high_b, p, q
        )
        norm_a, norm_b = np.log(total_a), np.log(total_b)
        found[row, 0] = max(cross_a / total_a - norm_a + norm_b, 0.0)
        found[row, 1] = max(cross_b / total_b - norm_b + norm_a, 0.0)
        mixed = _mixed(p, q, 0.5 / total_a, 0.5 / total_b)
        entropy = own_a / total_a - norm_a + own_b / total_b - norm_b
        found[row, 2] = max(0.5 * entropy - mixed, 0.0)
