"""float32 to a small float format, to nearest even, by integer arithmetic on the bits.

A normal result is the source's bits shifted right with a rounding increment. A
subnormal result is found by adding a power of two whose last place is the format's
smallest step: the processor's own addition then rounds to nearest even.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import Any, Final

import numpy as np

from harness.numerics.formats import Format
from harness.numerics.rounding import overflow_code

Array = np.ndarray[Any, np.dtype[Any]]
#: float32 values worked on at a time: four buffers of them fit a second-level cache.
CHUNK: Final = 1 << 15
_INF_BITS: Final = 0x7F800000


@dataclass(frozen=True)
class Recipe:
    """Constants that turn float32 bits into a format's codes."""

    #: Right shift of the float32 bits.
    shift: int
    #: Added before the shift; the last kept bit is added as well.
    half: int
    #: Subtracted after the shift: the difference of the exponent biases.
    rebias: int
    #: float32 bits below which the result is subnormal.
    normal: int
    #: float32 bits of the power of two that rounds subnormals.
    magic: int
    largest: int
    beyond: int
    nan: int
    #: Position of the sign bit.
    sign: int
    fnuz: bool


@cache
def recipe(fmt: Format, overflow: str) -> Recipe:
    """The constants of a float element format."""
    shift = 23 - fmt.mantissa
    magic = (fmt.emin - fmt.mantissa + 23 + 127) << 23
    return Recipe(
        shift=shift,
        half=(1 << (shift - 1)) - 1,
        rebias=(fmt.emin + 126) << fmt.mantissa,
        normal=(fmt.emin + 127) << 23,
        magic=magic,
        largest=fmt.largest_code,
        beyond=overflow_code(fmt, overflow),
        nan=fmt.nan_result,
        sign=fmt.bits - 1,
        fnuz=fmt.specials == "fnuz",
    )


def encode_float32(x: Array, fmt: Format, overflow: str, out: Array) -> None:
    """Write the codes of contiguous float32 values into `out`.

    Args:
        x: one-dimensional contiguous float32.
        fmt: a float element format.
        overflow: checked rule.
        out: uint8 or uint16, the same length.
    """
    with np.errstate(all="ignore"):
        for start in range(0, x.size, CHUNK):
            part = slice(start, start + CHUNK)
            _chunk(x[part], recipe(fmt, overflow), out[part])


def _chunk(x: Array, r: Recipe, out: Array) -> None:
    bits = x.view(np.uint32)
    magnitude = bits & np.uint32(0x7FFFFFFF)
    codes = magnitude >> np.uint32(r.shift)
    codes &= np.uint32(1)
    codes += magnitude
    codes += np.uint32(r.half)
    codes >>= np.uint32(r.shift)
    codes -= np.uint32(r.rebias)
    magic = np.uint32(r.magic)
    small = (magnitude.view(np.float32) + magic.view(np.float32)).view(np.uint32)
    small -= magic
    np.copyto(codes, small, where=magnitude < np.uint32(r.normal))
    if r.beyond == r.largest:
        np.minimum(codes, np.uint32(r.largest), out=codes)
    else:
        codes[codes > np.uint32(r.largest)] = r.beyond
    bits = bits >> np.uint32(31)
    if r.fnuz:
        bits &= (codes != 0) & (codes != r.nan)
    bits <<= np.uint32(r.sign)
    codes |= bits
    if int(magnitude.max(initial=0)) > _INF_BITS:
        codes[magnitude > np.uint32(_INF_BITS)] = r.nan
    np.copyto(out, codes, casting="unsafe")
