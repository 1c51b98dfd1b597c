"""The catalogue of formats: adding a format is adding a value.

Sources: OCP 8-bit Floating Point Specification 1.0 (fp8_e4m3, fp8_e5m2), OCP
Microscaling Formats 1.0 (fp6, fp4, E8M0, MX blocks), the ONNX operator specification
(the FNUZ variants), NVIDIA's NVFP4 description (blocks of 16 with E4M3 scales and one
float32 scale a tensor), Dettmers et al. 2023 (NF4), AMD Quark's BFPQuantizeDequantize
(BFP16: eight values, each a sign and seven bits, share the exponent of the largest; its
codes are never shown, here they are sign and magnitude).
"""

from __future__ import annotations

import difflib
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Final, Literal

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
    #: Bits of one element.
    bits: int
    exponent: int = 0
    mantissa: int = 0
    bias: int = 0
    #: ieee: Inf and NaN; fn: one NaN code a sign, no Inf; fnuz: NaN is the code of
    #: negative zero; none: every code is a number.
    specials: Specials = "none"
    signed: bool = True
    #: Values by code, ascending, for formats that are a table.
    values: tuple[float, ...] = ()
    #: Element format of a block format.
    element: str = ""
    #: Elements that share a scale; 0: not a block format.
    block: int = 0
    #: Format of the block's scale.
    scale: str = ""
    #: Scale rule when none is asked for (see `harness.numerics.scales`).
    rule: str = "amax"

    @cached_property
    def decoded(self) -> np.ndarray[Any, np.dtype[Any]]:
        """float32 value of every code, in order of code."""
        from harness.numerics.reference import decode_scalar

        values = [decode_scalar(self, code) for code in range(1 << self.bits)]
        table = np.array(values, dtype=np.float32)
        table.setflags(write=False)
        return table

    @cached_property
    def max(self) -> float:
        """Largest finite value of an element."""
        if self.kind == "block":
            return FORMATS[self.element].max
        if self.kind == "int":
            return float(2 ** (self.bits - self.signed) - 1)
        if self.kind == "table":
            return self.values[-1]
        if self.kind == "scale":
            return 2.0**127
        code = self.largest_code
        steps = (code & ((1 << self.mantissa) - 1)) + (1 << self.mantissa)
        exponent = (code >> self.mantissa) - self.bias - self.mantissa
        return float(np.ldexp(steps, exponent))

    @cached_property
    def min(self) -> float:
        """Smallest positive value of an element."""
        if self.kind == "block":
            return FORMATS[self.element].min
        if self.kind == "int":
            return 1.0
        if self.kind == "table":
            return min(v for v in self.values if v > 0)
        if self.kind == "scale":
            return 2.0**-127
        return float(2.0 ** (self.emin - self.mantissa))

    @property
    def emin(self) -> int:
        """Exponent of the smallest normal value of a float element."""
        return 1 - self.bias

    @cached_property
    def emax(self) -> int:
        """Exponent of the largest finite value of an element."""
        return int(np.floor(np.log2(self.max)))

    @property
    def largest_code(self) -> int:
        """Code of the largest finite magnitude of a float element."""
        if self.specials == "ieee":
            return (((1 << self.exponent) - 1) << self.mantissa) - 1
        return (1 << (self.bits - 1)) - (2 if self.specials == "fn" else 1)

    @property
    def nan_code(self) -> int | None:
        """Code of the positive quiet NaN without payload; None: there is no NaN."""
        if self.kind == "scale":
            return 255
        if self.kind != "float" or self.specials == "none":
            return None
        if self.specials == "fnuz":
            return 1 << (self.bits - 1)
        quiet = 1 << (self.mantissa - 1) if self.specials == "ieee" else 0
        return self.largest_code + 1 + quiet

    @property
    def nan_result(self) -> int:
        """Code that NaN is encoded as; without a NaN -0, or 0 without a sign.

        Minus zero is what ml_dtypes and ONNX's node tests make of it.
        """
        if self.nan_code is not None:
            return self.nan_code
        if self.kind == "float":
            return 1 << (self.bits - 1)
        return self.values.index(0.0) if self.values else 0

    @property
    def inf_code(self) -> int | None:
        """Code of positive infinity; None: there is no infinity."""
        return self.largest_code + 1 if self.specials == "ieee" else None


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
        # 16-bit floats have range enough: they are cast, not scaled.
        rule="unit" if 1 + e + m == 16 else "amax",
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
        # One exponent bit, so the spacing is 1/64 throughout: a sign and seven bits.
        _float("fp8_e1m6", 1, 6, 1, "none"),
        _float("fp16", 5, 10, 15, "ieee"),
        _float("bf16", 8, 7, 127, "ieee"),
        Format(name="fp8_e8m0", kind="scale", bits=8, signed=False, rule="unit"),
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
        _block("bfp16", "fp8_e1m6", 8, "fp8_e8m0", "floor"),
    )
}

#: Other names that the field uses for formats of the catalogue.
ALIASES: Final[dict[str, str]] = {
    "mxfp8": "mxfp8_e4m3",
    "mxfp4_e2m1": "mxfp4",
    "fp8_e4m3fn": "fp8_e4m3",
    "e8m0": "fp8_e8m0",
}


def find_format(name: str) -> Format:
    """The format of that name or alias.

    Raises:
        NumericsError: there is none; says which one was probably meant.
    """
    if isinstance(name, str):
        known = FORMATS.get(ALIASES.get(name, name))
        if known is not None:
            return known
    close = difflib.get_close_matches(str(name), [*FORMATS, *ALIASES], n=1)
    hint = f"did you mean {close[0]!r}?" if close else f"known: {', '.join(FORMATS)}"
    raise NumericsError(f"unknown format {name!r}; {hint}")


def element_format(name: str) -> Format:
    """The format, if it is an element format.

    Raises:
        NumericsError: unknown, or a block format.
    """
    fmt = find_format(name)
    if fmt.kind == "block":
        raise NumericsError(
            f"{name} is a block format: use quantize(), or its element {fmt.element!r}"
        )
    return fmt
