r"""Q4_K's scales and minimums as ggml's reference quantizer finds them.

Of a group of 32 values x the scale s and the offset m >= 0 of s * code - m are searched
for that make \sum w (s code - m - x)^2 least, with w = |x| + the root mean square of
the group. The first guess takes the group's range, zero included. Then 21 times the
range found so far is cut into 14, 14.1, ..., 16 steps, codes are rounded from that, s
and m are the least squares for these codes, and what has a smaller error is kept. The
largest scale and offset of a super-block are 63 of its units, in float16; the others
are rounded to as many, and all codes anew with what came of it.

Every operation is rounded to float32 in ggml's order, sums element by element, so that
the bytes are its own: `ggml_quantize_chunk` without an importance matrix.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

import numpy as np

from harness.numerics.arrays import Array
from harness.numerics.layouts.gguf_k import GROUP, Q4K, make_q4k

#: Largest code, and largest scale or minimum.
_TOP, _SIX_BITS = np.float32(15), np.float32(63)
#: Steps that the range is cut into, beyond 15.
_CUTS: Final = tuple(
    np.float32(-1) + np.float32(0.1) * np.float32(i) for i in range(21)
)
#: Groups that are searched at once: what a processor's cache holds.
_AT_ONCE: Final = 2048


@dataclass(frozen=True, eq=False)
class _Found:
    """Of each group; codes alone have a first axis of 32."""

    scale: Array
    offset: Array
    codes: Array


def search_q4k(values: Array) -> Q4K:
    """Super-blocks of finite float32 values, rows of whole 256 along the last axis."""
    groups = values.reshape(-1, GROUP)
    parts = [
        _search(np.ascontiguousarray(groups[start : start + _AT_ONCE].T))
        for start in range(0, len(groups), _AT_ONCE)
    ]
    lead = (*values.shape[:-1], values.shape[-1] // (8 * GROUP))

    def joined(arrays: Iterable[Array]) -> Array:
        return np.concatenate([np.zeros(0, np.float32), *arrays]).reshape(*lead, 8)

    d, steps = _six_bits(joined(part.scale for part in parts))
    dmin, minimums = _six_bits(joined(part.offset for part in parts))
    step = d.astype(np.float32)[..., None] * steps
    offset = dmin.astype(np.float32)[..., None] * minimums
    x = values.reshape(*lead, 8, GROUP)
    with np.errstate(all="ignore"):
        codes = _codes((x + offset[..., None]) / step[..., None])
    found = [part.codes.T for part in parts]
    searched = np.concatenate([np.zeros((0, GROUP), np.uint8), *found])
    # Under a scale of zero the codes say nothing; ggml leaves those of the search.
    codes = np.where(step[..., None] == 0, searched.reshape(codes.shape), codes)
    flat = (*values.shape[:-1], -1)
    return make_q4k(
        codes.astype(np.uint8).reshape(values.shape),
        steps.reshape(flat),
        minimums.reshape(flat),
        d,
        dmin,
    )


def _search(x: Array) -> _Found:
    """Groups, one a column: (32, groups)."""
    with np.errstate(all="ignore"):
        weight = np.abs(x) + np.sqrt(_sum(x * x) / np.float32(GROUP))
        weights, weighted = _sum(weight), _sum(weight * x)
        low, high = np.minimum(x.min(axis=0), 0), x.max(axis=0)
        flat = high == low
        inverse = _TOP / (high - low)
        scale = 1 / inverse
        codes = _codes(inverse * (x - low))
        least = _error(x, weight, codes, scale, low)
        for cut in _CUTS:
            inverse = (cut + _TOP) / (high - low)
            tried = _codes(inverse * (x - low))
            by_code = weight * tried
            ones, squares = _sum(by_code), _sum(by_code * tried)
            products = _sum(by_code * x)
            size = weights * squares - ones * ones
            slope = (weights * products - weighted * ones) / size
            start = (squares * weighted - ones * products) / size
            above = start > 0
            slope = np.where(above, products / squares, slope)
            start = np.where(above, np.float32(0), start)
            error = _error(x, weight, tried, slope, start)
            better = (size > 0) & (error < least)
            codes = np.where(better, tried, codes)
            least = np.where(better, error, least)
            scale = np.where(better, slope, scale)
            low = np.where(better, start, low)
    # All values alike and none above zero: the offset alone says them.
    scale = np.where(flat, np.float32(0), scale)
    low = np.where(flat, np.minimum(high, 0), low)
    return _Found(scale, -low, np.where(flat, 0, codes).astype(np.uint8))


def _sum(terms: Array) -> Array:
    """Over the first axis, one after the other: the order is part of the rule."""
    found: Array = functools.reduce(np.add, terms)
    return found


def _error(x: Array, weight: Array, codes: Array, scale: Array, low: Array) -> Array:
    apart = scale * codes + low - x
    return _sum(weight * (apart * apart))


def _codes(ratio: Array) -> Array:
    """Rounded to the nearest, halves to even, 0 to 15; 0 for what is no number."""
    found: Array = np.fmin(np.fmax(np.rint(ratio), np.float32(0)), _TOP)
    return found


def _six_bits(wanted: Array) -> tuple[Array, Array]:
    """float16 unit of each super-block, and uint8 multiples of it, 0 to 63."""
    largest = np.maximum(wanted.max(axis=-1), 0)
    with np.errstate(all="ignore"):
        unit = (largest / _SIX_BITS).astype(np.float16)
        inverse = np.where(largest > 0, _SIX_BITS / largest, np.float32(0))
        steps = np.rint(inverse[..., None] * wanted)
    return unit, np.fmin(np.fmax(steps, 0), _SIX_BITS).astype(np.uint8)
