# ruff: noqa: ANN001, ANN201, ANN202, PLR0917 - numba infers the types; loops are
# written out because a call per element would not vectorise.
# mypy: allow-untyped-defs, allow-untyped-decorators, allow-untyped-calls
"""Divergences of whole rows of float32 logits, compiled. Needs numba (extra `fast`).

exp and log are polynomials in float64 that vectorise, within 2**-50 of the true values.
"""

from __future__ import annotations

from typing import Any, Final

import numba as nb
import numpy as np

Array = np.ndarray[Any, np.dtype[Any]]

#: Elements whose largest decides whether they are looked at for the five largest.
BLOCK: Final = 128
PIECE: Final = 1024

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


@_exact
def _exp(x, out, count, rounded, places, power):
    """Out = exp(x) for x in [-700, 0]; `places` and `power` are views of `rounded`."""
    for i in range(count):
        rounded[i] = x[i] * _LOG2E + _ROUND
    for i in range(count):
        k = rounded[i] - _ROUND
        r = (x[i] - k * _LN2_HIGH) - k * _LN2_LOW
        # Taylor's series to the 13th power: |r| <= ln 2 / 2.
        p = 1.0 / 6227020800.0
        p = p * r + 1.0 / 479001600.0
        p = p * r + 1.0 / 39916800.0
        p = p * r + 1.0 / 3628800.0
        p = p * r + 1.0 / 362880.0
        p = p * r + 1.0 / 40320.0
        p = p * r + 1.0 / 5040.0
        p = p * r + 1.0 / 720.0
        p = p * r + 1.0 / 120.0
        p = p * r + 1.0 / 24.0
        p = p * r + 1.0 / 6.0
        p = p * r + 0.5
        p = p * r + 1.0
        out[i] = p * r + 1.0
    for i in range(count):
        places[i] = (places[i] + 1023) << 52
    for i in range(count):
        out[i] *= power[i]


@_exact
def _log(x, bits, out, count, shifted, shifted_bits):
    """Out = log(x) for normal x > 0; `bits` is a view of `x`, which is overwritten."""
    for i in range(count):
        b = bits[i]
        # So that the mantissa falls into [sqrt(1/2), sqrt(2)).
        e = (b - 0x3FE6A09E667F3BCD) >> 52
        bits[i] = b - (e << 52)
        # Exponent plus 2048 as the lowest bits of 2**52: a float without a conversion.
        shifted_bits[i] = 0x4330000000000000 | (e + 2048)
    for i in range(count):
        e = shifted[i] - 4503599627372544.0  # 2**52 + 2048
        f = x[i]
        s = (f - 1.0) / (f + 1.0)
        z = s * s
        p = 2.0 / 21.0
        p = p * z + 2.0 / 19.0
        p = p * z + 2.0 / 17.0
        p = p * z + 2.0 / 15.0
        p = p * z + 2.0 / 13.0
        p = p * z + 2.0 / 11.0
        p = p * z + 2.0 / 9.0
        p = p * z + 2.0 / 7.0
        p = p * z + 2.0 / 5.0
        p = p * z + 2.0 / 3.0
        p = p * z + 2.0
        out[i] = e * _LN2_HIGH + (p * s + e * _LN2_LOW)


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
    u, part_p, work = np.empty(PIECE), np.empty(PIECE), np.empty(PIECE)
    work_bits = work.view(np.int64)
    for row in range(rows):
        if _block_maxima(bits[row], width, maxima):
            normals[row] = np.nan
            continue
        _five(bits[row], width, maxima, tops[row])
        high = np.float64(x[row, tops[row, 0]])
        total = 0.0
        for start in range(0, width, PIECE):
            count = min(PIECE, width - start)
            part = x[row, start : start + count]
            for i in range(count):
                u[i] = max(np.float64(part[i]) - high, -700.0)
            _exp(u, part_p, count, work, work_bits, work)
            for i in range(count):
                total += part_p[i]
        normals[row] = high + np.log(total)


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
    u, v = np.empty(PIECE), np.empty(PIECE)
    work, mixed = np.empty(PIECE), np.empty(PIECE)
    work_bits, mixed_bits = work.view(np.int64), mixed.view(np.int64)
    logs = np.empty(PIECE)
    for row in range(rows):
        bad = _block_maxima(a_bits[row], width, first)
        bad |= _block_maxima(b_bits[row], width, second)
        if bad:
            found[row, :] = np.nan
            continue
        _five(a_bits[row], width, first, tops[row, 0])
        _five(b_bits[row], width, second, tops[row, 1])
        high_a = np.float64(a[row, tops[row, 0, 0]])
        high_b = np.float64(b[row, tops[row, 1, 0]])
        total_a, total_b, own_a, own_b, cross_a, cross_b = 0.0, 0.0, 0.0, 0.0, 0.0, 0.0
        for start in range(0, width, PIECE):
            count = min(PIECE, width - start)
            # Slices, because an index with an offset does not vectorise.
            part_a, part_b = (
                a[row, start : start + count],
                b[row, start : start + count],
            )
            part_p, part_q = p[start : start + count], q[start : start + count]
            for i in range(count):
                u[i] = max(np.float64(part_a[i]) - high_a, -700.0)
            for i in range(count):
                v[i] = max(np.float64(part_b[i]) - high_b, -700.0)
            _exp(u, part_p, count, work, work_bits, work)
            _exp(v, part_q, count, work, work_bits, work)
            for i in range(count):
                x, y = part_p[i], part_q[i]
                total_a += x
                total_b += y
                own_a += x * u[i]
                own_b += y * v[i]
                cross_a += x * (u[i] - v[i])
                cross_b += y * (v[i] - u[i])
        norm_a, norm_b = np.log(total_a), np.log(total_b)
        found[row, 0] = max(cross_a / total_a - norm_a + norm_b, 0.0)
        found[row, 1] = max(cross_b / total_b - norm_b + norm_a, 0.0)
        half, scale_a, scale_b = 0.0, 0.5 / total_a, 0.5 / total_b
        for start in range(0, width, PIECE):
            count = min(PIECE, width - start)
            part_p, part_q = p[start : start + count], q[start : start + count]
            for i in range(count):
                mean = part_p[i] * scale_a + part_q[i] * scale_b
                u[i] = mean
                mixed[i] = max(mean, 1e-300)
            _log(mixed, mixed_bits, logs, count, work, work_bits)
            for i in range(count):
                half += u[i] * logs[i]
        entropy = own_a / total_a - norm_a + own_b / total_b - norm_b
        found[row, 2] = max(0.5 * entropy - half, 0.0)
