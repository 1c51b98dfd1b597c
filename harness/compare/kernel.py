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
def _narrow(bits, count, kind, scratch, values):
    """Bits to float32; returns whether one is not finite.

    `values` is `scratch` (uint32) seen as float32.
    """
    worst = np.uint32(0)
    if kind == 0:
        for i in range(count):
            b = np.uint32(bits[i])
            scratch[i] = b
            worst = max(worst, b & np.uint32(0x7FFFFFFF))
        return worst >= np.uint32(0x7F800000)
    if kind == 1:
        for i in range(count):
            b = np.uint32(bits[i])
            worst = max(worst, b & np.uint32(0x7FFF))
            # Exponent and mantissa in place, the exponent's bias put right below.
            scratch[i] = ((b & np.uint32(0x8000)) << np.uint32(16)) | (
                (b & np.uint32(0x7FFF)) << np.uint32(13)
            )
        for i in range(count):
            values[i] *= np.float32(5.192296858534828e33)  # 2**112
        return worst >= np.uint32(0x7C00)
    for i in range(count):
        b = np.uint32(bits[i]) << np.uint32(16)
        scratch[i] = b
        worst = max(worst, b & np.uint32(0x7FFFFFFF))
    return worst >= np.uint32(0x7F800000)


@_jit
def _sums(r, c, count, e, size, narrow):
    """Sums of one piece in float64; error^2 and |error| are kept, for what follows.

    No maximum and no count in here: beside these sums LLVM would not vectorise.
    """
    total, total_e, total_r, total_c, product = 0.0, 0.0, 0.0, 0.0, 0.0
    for i in range(count):
        x, y = np.float64(r[i]), np.float64(c[i])
        d = y - x
        sq = d * d
        e[i] = sq
        size[i] = abs(d)
        narrow[i] = np.float32(abs(d))
        total += d
        total_e += sq
        total_r += x * x
        total_c += y * y
        product += x * y
    return total, total_e, total_r, total_c, product


@_jit
def _largest(places, narrow_bits, count):
    """Bits of the largest |error|, and how many are not zero.

    A difference of two float32 is zero in float32 only if it is zero.
    """
    most, different = np.int64(0), np.uint32(0)
    for i in range(count):
        most = max(most, places[i])
    for i in range(count):
        different += np.uint32(narrow_bits[i] != 0)
    return most, np.int64(different)


@_jit
def _max_ratio(narrow, r, count, ratio, ratio_bits):
    """Bits of the largest |error| / |reference| in float32.

    `ratio_bits` is `ratio` seen as uint32: a maximum of bits vectorises, one of floats
    does not.
    """
    for i in range(count):
        # Zero against zero is no error, not 0 / 0.
        below, above = abs(r[i]), narrow[i]
        ratio[i] = above / below if above != 0 else np.float32(0)
    most = np.uint32(0)
    for i in range(count):
        most = max(most, ratio_bits[i])
    return most


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
    c_bits = np.empty(PIECE, np.uint32)
    r, c = values, c_bits.view(np.float32)
    e, s, size = np.empty(PIECE), np.empty(PIECE), np.empty(PIECE)
    places, most_place = size.view(np.int64), np.empty(1, np.int64)
    most_size = most_place.view(np.float64)
    narrow = np.empty(PIECE, np.float32)
    narrow_bits = narrow.view(np.uint32)
    ratio, most = np.empty(PIECE, np.float32), np.empty(1, np.uint32)
    ratio_bits, most_ratio = ratio.view(np.uint32), most.view(np.float32)
    sign = np.uint32(0x80000000) if kind == 0 else np.uint32(0x8000)
    differing = 0
    blocked = columns % 16 == 0
    for t in range(len(tiles)):
        number = first + t
        most[0], most_place[0] = 0, 0
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
                if _narrow(part_a, count, kind, scratch, r) | _narrow(
                    part_b, count, kind, c_bits, c
                ):
                    bad[number] = 1
                    break
                total, total_e, total_r, total_c, product = _sums(
                    r, c, count, e, size, narrow
                )
                found, different = _largest(places, narrow_bits, count)
                if different:
                    differing += different
                    most[0] = max(
                        most[0], _max_ratio(narrow, r, count, ratio, ratio_bits)
                    )
                    for i in range(count):
                        histogram[narrow_bits[i] >> np.uint32(16)] += 1
                    most_place[0] = max(most_place[0], found)
                    maxima[number, 0] = most_size[0]
                    maxima[number, 1] = np.float64(most_ratio[0])
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
                        x = np.float64(r[i])
                        signal_column[i] += x * x
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
