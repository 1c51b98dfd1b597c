"""What each number format means: encode, decode, scales, rounding; knows no model."""

from __future__ import annotations

from harness.numerics.codec import decode, encode, round_trip
from harness.numerics.formats import ALIASES, FORMATS, Format, find_format
from harness.numerics.packing import pack, unpack
from harness.numerics.quantize import quantize
from harness.numerics.quantized import Quantized

__all__ = [
    "ALIASES",
    "FORMATS",
    "Format",
    "Quantized",
    "decode",
    "encode",
    "find_format",
    "pack",
    "quantize",
    "round_trip",
    "unpack",
]
