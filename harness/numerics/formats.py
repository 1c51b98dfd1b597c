"""The catalogue of formats: adding a format is adding a value.

Sources: OCP 8-bit Floating Point Specification 1.0 (fp8_e4m3, fp8_e5m2), OCP
Microscaling Formats 1.0 (fp6, fp4, E8M0, MX blocks), the ONNX operator specification
(the FNUZ variants), NVIDIA's NVFP4 description (blocks of 16 with E4M3 scales and one
float32 scale a tensor), Dettmers et al. 2023 (NF4).
"""

from __future__ import annotations

import difflib
from dataclasses import dataclass
from functools import cached_property
from typing import Final, Literal

import numpy as np

from harness.errors import NumericsError

Specials = Literal["ieee", "fn", "fnuz", "none"]


@dataclass(frozen=True, kw_only=True)
class Format:
    """One element format, or a block format made of one.

    A float element has a sign, `exponent` bits and `mantissa` bits; its smallest
    normal exponent is `1 - bias`. An integer element has `bits` bits, two's
    complement when signed. A block format names its element and its scale format.
    """

    name: str
    kind: Literal["float", "int", "table", "scale", "block"]
    bits: int
    exponent: int = 0
    mantissa: int = 0
    bias: int = 0
    #: ieee: Inf and NaN; fn: one NaN code a sign, no Inf; fnuz: NaN is the code of
    #: negative zero; none: every code is a number.
    specials: Specials = "none"
    signed: bool = True
    #: Values by code, for formats that are a table.
    values: tuple[float, ...] = ()
    #: Element format of a block format.
    element: str = ""
    #: Elements that share a scale; 0: not a block format.
    block: int = 0
    #: Format of the block's scale.
    scale: str = ""
    #: Scale rule when none is asked for.
    rule: str = ""

    @cached_property
    def decoded(self) -> np.ndarray:
        """float32 value of every code, in order of code."""
        return np.array([decode_scalar(self, code) for code in range(1 << self.bits)])

    @property
    def max(self) -> float:
        """Largest finite value of an element."""
        if self.kind == "block":
            return FORMATS[self.element].max
        if self.kind == "int":
            return float(2 ** (self.bits - self.signed) - 1)
        finite = self.decoded[np.isfinite(self.decoded)]
        return float(finite.max())

    @property
    def min(self) -> float:
        """Smallest positive value of an element."""
        if self.kind == "block":
            return FORMATS[self.element].min
        if self.kind == "int":
            return 1.0
        return float(self.decoded[self.decoded > 0].min())

    @property
    def emin(self) -> int:
        """Exponent of the smallest normal value of a float element."""
        return 1 - self.bias

    @property
    def emax(self) -> int:
        """Exponent of the largest finite value of an element."""
        return int(np.floor(np.log2(self.max)))


def decode_scalar(fmt: Format, code: int) -> float:
    """The value of one code, written for reading."""
    if fmt.kind == "table":
        return fmt.values[code]
    if fmt.kind == "int":
        wraps = fmt.signed and code >= 1 << (fmt.bits - 1)
        return float(code - (1 << fmt.bits) if wraps else code)
    if fmt.kind == "scale":
        return float("nan") if code == 255 else float(np.ldexp(1.0, code - 127))
    sign = -1.0 if code >> (fmt.bits - 1) else 1.0
    magnitude = code & ((1 << (fmt.bits - 1)) - 1)
    exponent, fraction = (
        magnitude >> fmt.mantissa,
        magnitude & ((1 << fmt.mantissa) - 1),
    )
    if fmt.specials == "fnuz" and sign < 0 and magnitude == 0:
        return float("nan")
    if fmt.specials == "fn" and magnitude == (1 << (fmt.bits - 1)) - 1:
        return float("nan")
    if fmt.specials == "ieee" and exponent == (1 << fmt.exponent) - 1:
        return sign * float("inf") if fraction == 0 else float("nan")
    if exponent == 0:
        return sign * float(np.ldexp(fraction, fmt.emin - fmt.mantissa))
    significand = fraction + (1 << fmt.mantissa)
    return sign * float(np.ldexp(significand, exponent - fmt.bias - fmt.mantissa))


#: Quantiles of a normal distribution, scaled to [-1, 1] (Dettmers et al. 2023).
_NF4: Final = (
    -1.0,
    -0.6961928009986877,
    -0.5250730514526367,
    -0.39491748809814453,
    -0.28444138169288635,
    -0.18477343022823334,
    -0.09105003625154495,
    0.0,
    0.07958029955625534,
    0.16093020141124725,
    0.24611230194568634,
    0.33791524171829224,
    0.44070982933044434,
    0.5626170039176941,
    0.7229568362236023,
    1.0,
)


def _float(name: str, e: int, m: int, bias: int, specials: Specials) -> Format:
    return Format(
        name=name,
        kind="float",
        bits=1 + e + m,
        exponent=e,
        mantissa=m,
        bias=bias,
        specials=specials,
    )


def _block(name: str, element: str, block: int, scale: str, rule: str) -> Format:
    return Format(
        name=name,
        kind="block",
        bits=_ELEMENTS[element].bits,
        element=element,
        block=block,
        scale=scale,
        rule=rule,
    )


_ELEMENTS: Final[dict[str, Format]] = {
    fmt.name: fmt
    for fmt in (
        _float("fp8_e4m3", 4, 3, 7, "fn"),
        _float("fp8_e5m2", 5, 2, 15, "ieee"),
        _float("fp8_e4m3fnuz", 4, 3, 8, "fnuz"),
        _float("fp8_e5m2fnuz", 5, 2, 16, "fnuz"),
        _float("fp6_e2m3", 2, 3, 1, "none"),
        _float("fp6_e3m2", 3, 2, 3, "none"),
        _float("fp4_e2m1", 2, 1, 1, "none"),
        _float("fp16", 5, 10, 15, "ieee"),
        _float("bf16", 8, 7, 127, "ieee"),
        Format(name="fp8_e8m0", kind="scale", bits=8, signed=False),
        Format(name="nf4", kind="table", bits=4, values=_NF4),
        Format(name="int8", kind="int", bits=8),
        Format(name="int4", kind="int", bits=4),
        Format(name="uint8", kind="int", bits=8, signed=False),
        Format(name="uint4", kind="int", bits=4, signed=False),
    )
}

#: Name -> format.
FORMATS: Final[dict[str, Format]] = _ELEMENTS | {
    fmt.name: fmt
    for fmt in (
        _block("mxfp8_e4m3", "fp8_e4m3", 32, "fp8_e8m0", "floor"),
        _block("mxfp8_e5m2", "fp8_e5m2", 32, "fp8_e8m0", "floor"),
        _block("mxfp6_e2m3", "fp6_e2m3", 32, "fp8_e8m0", "floor"),
        _block("mxfp6_e3m2", "fp6_e3m2", 32, "fp8_e8m0", "floor"),
        _block("mxfp4", "fp4_e2m1", 32, "fp8_e8m0", "floor"),
        _block("nvfp4", "fp4_e2m1", 16, "fp8_e4m3", "amax"),
    )
}


def find_format(name: str) -> Format:
    """The format of that name.

    Raises:
        NumericsError: there is none; says which one was probably meant.
    """
    if name in FORMATS:
        return FORMATS[name]
    close = difflib.get_close_matches(str(name), FORMATS, n=1)
    hint = f"did you mean {close[0]!r}?" if close else f"known: {', '.join(FORMATS)}"
    raise NumericsError(f"unknown format {name!r}; {hint}")
