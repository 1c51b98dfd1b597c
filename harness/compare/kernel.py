# ruff: noqa: ANN001, ANN201, ANN202, PLR0917, PLR0915 - numba infers the types; loops
# are written out because a call per element would not vectorise.
# mypy: allow-untyped-defs, allow-untyped-decorators, allow-untyped-calls
"""The same sums as `Moments.add`, compiled: one pass at the speed of memory.

Needs numba (extra `fast`). Works on the bits of float32, float16 and bfloat16 tensors,
widened to float64 in pieces that stay in the first-level cache. Sums may be added in
another order than NumPy's; every count, maximum and place is the same.
"""

from __future__ import annotations

from typing import Any, Final

import numba as nb
import numpy as np

Array = np.ndarray[Any, np.dtype[Any]]

#: Elements of a piece: six scratch rows of it fit 128 KiB.
PIECE: Final = 2048
#: Kinds of bits.
FLOAT32: Final = 0
FLOAT16: Final = 1
BFLOAT16: Final = 2

# Sums may be reassociated, so that they vectorise; NaN and Inf keep their meaning.
_jit = nb.njit(
    nogil=True,
    cache=True,
    error_model="numpy",
    fastmath={"reassoc", "contract"},
)


@_jit
def _widen(bits, count, kind, scratch, values, out):
    """Bits to float64; returns whether one is not finite.

    `values` is `scratch` (uint32) seen as float32.
    """
    worst = np.uint32(0)
    if kind == 0:
        for i in range(count):
            b = np.uint32(bits[i])
            scratch[i] = b
            worst = max(worst, b & np.uint32(0x7FFFFFFF))
        limit = np.uint32(0x7F800000)
    elif kind == 1:
        for i in range(count):
            b = np.uint32(bits[i])
            worst = max(worst, b & np.uint32(0x7FFF))
            # Exponent and mantissa in place, the exponent's bias put right below.
            scratch[i] = ((b & np.uint32(0x8000)) << np.uint32(16)) | (
                (b & np.uint32(0x7FFF)) << np.uint32(13)
            )
        limit = np.uint32(0x7C00)
    else:
        for i in range(count):
            b = np.uint32(bits[i]) << np.uint32(16)
            scratch[i] = b
            worst = max(worst, b & np.uint32(0x7FFFFFFF))
        limit = np.uint32(0x7F800000)
    if kind == 1:
        for i in range(count):
            out[i] = np.float64(values[i]) * 5.192296858534828e33  # 2**112
    else:
        for i in range(count):
            out[i] = np.float64(values[i])
    return worst >= limit


@_jit
def _max_ulp(a, b, count, sign):
    """Largest distance of places in the format's order; see `harness.compare.ulp`.

    Places are moved up by `sign`, so that they are not negative and fit 32 bits.
    """
    most = np.uint32(0)
    low = np.uint32(sign - np.uint32(1))
    for i in range(count):
        x, y = np.uint32(a[i]), np.uint32(b[i])
        p = sign - (x & low) if x & sign else sign + x
        q = sign - (y & low) if y & sign else sign + y
        p, q = np.uint32(p), np.uint32(q)
        most = max(most, np.uint32(p - q) if p > q else np.uint32(q - p))
    return most


@_jit
def gather(
    a,
    b,
    kind,
    columns,
    first,
    tiles,
    sums,
    maxima,
    ulps,
    bad,
    histogram,
    by_row,
    by_column,
    blocks,
):
    """Sums of tiles of whole rows, or of parts of one row.

    Args:
        a: bits of the reference, flat.
        b: bits of the candidate, flat.
        kind: FLOAT32, FLOAT16 or BFLOAT16.
        columns: length of a row.
        first: number of the first of `tiles`.
        tiles: (n, 3) row, rows, and first column; int64.
        sums: (all tiles, 5) out: error, error^2, reference^2, candidate^2, product.
        maxima: (all tiles, 2) out: |error|; |error| / |reference| in float32.
        ulps: (all tiles,) out.
        bad: (all tiles,) out: 1 where something is not finite and the sums are void.
        histogram: of |error|, added to.
        by_row: (2, rows) error and reference energy, added to; (2, 0): not wanted.
        by_column: (2, columns), likewise.
        blocks: (all tiles, 3, 3) out: energy, row and column of the worst block of 16,
            32 and 128.

    Returns:
        How many elements differ.
    """
    scratch = np.empty(PIECE, np.uint32)
    values = scratch.view(np.float32)
    r, c = np.empty(PIECE), np.empty(PIECE)
    e, s = np.empty(PIECE), np.empty(PIECE)
    narrow = np.empty(PIECE, np.float32)
    narrow_bits = narrow.view(np.uint32)
    ratio = np.empty(PIECE, np.float32)
    ratio_bits = ratio.view(np.uint32)
    a_bits = np.empty(PIECE)
    a_places = a_bits.view(np.int64)
    sign = np.uint32(0x80000000) if kind == 0 else np.uint32(0x8000)
    differing = 0
    blocked = columns % 16 == 0
    for t in range(len(tiles)):
        number = first + t
        row0, rows, column0 = tiles[t, 0], tiles[t, 1], tiles[t, 2]
        width = min(columns - column0, 65536)
        for row in range(row0, row0 + rows):
            error_row, signal_row = 0.0, 0.0
            for offset in range(0, width, PIECE):
                count = min(PIECE, width - offset)
                column = column0 + offset
                start = row * columns + column
                # Slices, because an index with an offset does not vectorise.
                part_a, part_b = a[start : start + count], b[start : start + count]
                if _widen(part_a, count, kind, scratch, values, r) | _widen(
                    part_b, count, kind, scratch, values, c
                ):
                    bad[number] = 1
                    break
                total, total_e, total_r, total_c, product = 0.0, 0.0, 0.0, 0.0, 0.0
                for i in range(count):
                    x, y = r[i], c[i]
                    d = y - x
                    sq = d * d
                    e[i] = sq
                    a_bits[i] = abs(d)
                    narrow[i] = np.float32(abs(d))
                    total += d
                    total_e += sq
                    total_r += x * x
                    total_c += y * y
                    product += x * y
                largest, different = np.int64(0), 0
                for i in range(count):
                    largest = max(largest, a_places[i])
                    different += a_places[i] != 0
                if different:
                    differing += different
                    for i in range(count):
                        # Zero against zero is no error, not 0 / 0.
                        below = abs(np.float32(r[i]))
                        above = narrow[i]
                        ratio[i] = above / below if above != 0 else np.float32(0)
                    relative = np.uint32(0)
                    for i in range(count):
                        relative = max(relative, ratio_bits[i])
                    for i in range(count):
                        histogram[narrow_bits[i] >> np.uint32(16)] += 1
                    e_max = np.empty(1, np.int64)
                    e_max[0] = largest
                    maxima[number, 0] = max(
                        maxima[number, 0], e_max.view(np.float64)[0]
                    )
                    r_max = np.empty(1, np.uint32)
                    r_max[0] = relative
                    maxima[number, 1] = max(
                        maxima[number, 1], np.float64(r_max.view(np.float32)[0])
                    )
                    apart = np.int64(_max_ulp(part_a, part_b, count, sign))
                    ulps[number] = max(ulps[number], apart)
                else:
                    histogram[0] += count
                sums[number, 0] += total
                sums[number, 1] += total_e
                sums[number, 2] += total_r
                sums[number, 3] += total_c
                sums[number, 4] += product
                error_row += total_e
                signal_row += total_r
                if by_column.shape[1]:
                    error_column = by_column[0, column : column + count]
                    signal_column = by_column[1, column : column + count]
                    for i in range(count):
                        error_column[i] += e[i]
                    for i in range(count):
                        signal_column[i] += r[i] * r[i]
                if blocked and different:
                    _worst_blocks(e, count, columns, row, column, blocks[number], s)
            if by_row.shape[1]:
                by_row[0, row] += error_row
                by_row[1, row] += signal_row
    return differing


@_jit
def _worst_blocks(e, count, columns, row, column, best, s):
    """Keep the worst block of 16, 32 and 128 of one piece."""
    blocks = count // 16
    rows = e[: blocks * 16].reshape(blocks, 16)
    for k in range(blocks):
        total = 0.0
        for i in range(16):
            total += rows[k, i]
        s[k] = total
    width = 16
    for level in range(3):
        if level == 1:
            width = 32
            if columns % 32:
                return
            blocks //= 2
            for k in range(blocks):
                s[k] = s[2 * k] + s[2 * k + 1]
        elif level == 2:
            width = 128
            if columns % 128:
                return
            blocks //= 4
            for k in range(blocks):
                s[k] = (s[4 * k] + s[4 * k + 1]) + (s[4 * k + 2] + s[4 * k + 3])
        for k in range(blocks):
            if s[k] > best[level, 0]:
                best[level, 0] = s[k]
                best[level, 1] = row
                best[level, 2] = column + k * width
