"""Quantizing and decoding in torch, from the definitions of the formats.

Written apart from `harness.numerics`, which is the oracle's: a mistake in one shows as
a difference from the other.
"""

from __future__ import annotations

from typing import Final

import torch
from torch import Tensor as T  # noqa: N817 - as short as it is frequent

from harness.errors import UnsupportedError

#: Formats that torch stores as such.
NATIVE: Final = {
    "fp8_e4m3": torch.float8_e4m3fn,
    "fp8_e5m2": torch.float8_e5m2,
    "fp8_e4m3fnuz": torch.float8_e4m3fnuz,
    "fp8_e5m2fnuz": torch.float8_e5m2fnuz,
    "int8": torch.int8,
}
#: Largest finite values.
_MAX: Final = {
    "fp8_e4m3": 448.0,
    "fp8_e5m2": 57344.0,
    "fp8_e4m3fnuz": 240.0,
    "fp8_e5m2fnuz": 57344.0,
    "fp4_e2m1": 6.0,
    "fp8_e1m6": 127 / 64,
    "int8": 127.0,
    "int4": 7.0,
}


def _normal_float() -> tuple[float, ...]:
    """NF4's values: quantiles of the normal distribution, the largest of them 1.

    Eight positive ones and seven negative, evenly spaced in probability, and zero
    (Dettmers et al. 2023, section 3; the offset is that of their code).
    """
    sides = [
        sign * torch.special.ndtri(torch.linspace(0.9677083, 0.5, count).double())
        for sign, count in ((1, 9), (-1, 8))
    ]
    values = torch.cat([side[:-1] for side in sides] + [torch.zeros(1).double()])
    ordered = values.float().sort().values
    return tuple((ordered / ordered[-1]).tolist())


_E2M1: Final = (0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0)
_TABLES: Final = {
    "fp4_e2m1": (*_E2M1, *(-value for value in _E2M1)),
    "int4": (*range(8), *range(-8, 0)),
    "nf4": _normal_float(),
}


def largest(element: str) -> float:
    """Largest finite magnitude that a scale is made from."""
    if element not in _MAX:
        raise UnsupportedError(f"{element} is not quantized by the torch backend")
    return _MAX[element]


def round_element(ratio: T, element: str) -> T:
    """Nearest value of an element format, ties to even, saturating; float32."""
    if element == "fp8_e1m6":
        # One spacing throughout: 1/64.
        limit = _MAX[element]
        return (torch.round(ratio * 64) / 64).clamp(-limit, limit)
    if element.startswith("fp8"):
        limit = _MAX[element]
        return ratio.clamp(-limit, limit).to(NATIVE[element]).to(torch.float32)
    if element == "int8":
        return torch.round(ratio).clamp(-128, 127)
    if element == "int4":
        return torch.round(ratio).clamp(-8, 7)
    if element != "fp4_e2m1":
        raise UnsupportedError(f"{element} is not quantized by the torch backend")
    size = ratio.abs()
    # The grid is 0.5 apart below 2, 1 apart below 4, 2 apart above.
    step = torch.where(size < 2, 0.5, torch.where(size < 4, 1.0, 2.0))
    rounded = (torch.round(size / step) * step).clamp(max=6.0)
    return torch.copysign(rounded, ratio)


def scale_of(amax: T, element: str) -> T:
    """float32 scale of groups; 1 for a group of zeros."""
    scale = amax / largest(element)
    return torch.where(scale > 0, scale, torch.ones_like(scale))


def floor_power(amax: T, emax: int) -> T:
    """2**(floor(log2(amax)) - emax), the OCP rule; 2**-127 for a block of zeros."""
    _, exponent = torch.frexp(amax)
    power = (exponent - 1 - emax).clamp(-127, 127)
    power = torch.where(amax > 0, power, torch.full_like(power, -127))
    return torch.ldexp(torch.ones_like(amax), power)


def blocked_round(x: T, *, size: int, axis: int, fmt: str, tensor_scale: float) -> T:
    """Values of a block format along one axis; a tail is a smaller block."""
    moved = x.movedim(axis, -1)
    length = moved.shape[-1]
    padded = torch.nn.functional.pad(moved, (0, -length % size))
    blocks = padded.unflatten(-1, (-1, size))
    amax = blocks.abs().amax(dim=-1, keepdim=True)
    element = block_element(fmt)
    if fmt == "nvfp4":
        wanted = amax / 6.0 / tensor_scale
        scale = wanted.clamp(max=448.0).to(torch.float8_e4m3fn).to(torch.float32)
        scale = torch.where(scale > 0, scale, torch.full_like(scale, 2.0**-9))
        scale = scale * tensor_scale
    else:
        scale = floor_power(amax, EMAX[element])
    decoded = round_element(blocks / scale, element) * scale
    return decoded.flatten(-2)[..., :length].movedim(-1, axis)


#: Exponent of the largest value of the elements of formats with E8M0 scales.
EMAX: Final = {"fp8_e4m3": 8, "fp8_e5m2": 15, "fp4_e2m1": 2, "fp8_e1m6": 0}


def block_element(fmt: str) -> str:
    """The element of a block format that is emulated here."""
    elements = {
        "mxfp8_e4m3": "fp8_e4m3",
        "mxfp8_e5m2": "fp8_e5m2",
        "mxfp4": "fp4_e2m1",
        "nvfp4": "fp4_e2m1",
        "bfp16": "fp8_e1m6",
    }
    if fmt not in elements:
        raise UnsupportedError(f"{fmt} is not quantized by the torch backend")
    return elements[fmt]


def unpack(packed: T, element: str, length: int) -> T:
    """float32 values of bytes: of one code each, or of two of 4 bits, low first."""
    if element == "fp8_e1m6":
        # A sign and a magnitude in steps of 1/64.
        magnitude = (packed & 127).to(torch.float32) / 64
        return torch.where(packed >= 128, -magnitude, magnitude)
    table = torch.tensor(_TABLES[element], dtype=torch.float32, device=packed.device)
    codes = torch.stack([packed & 15, packed >> 4], dim=-1).flatten(-2)
    return table[codes[..., :length].long()]


def pack(codes: T, element: str) -> T:
    """Codes as bytes: of 4 bits two a byte along the last axis, low nibble first."""
    if element == "fp8_e1m6":
        return codes
    even = torch.nn.functional.pad(codes, (0, codes.shape[-1] % 2))
    return even[..., 0::2] | (even[..., 1::2] << 4)
