"""What each number format means: encode, decode, scales, rounding; knows no model."""

from __future__ import annotations

from harness.numerics.codec import decode, encode
from harness.numerics.formats import FORMATS, Format, find_format
from harness.numerics.quantize import Quantized, quantize

__all__ = [
    "FORMATS",
    "Format",
    "Quantized",
    "decode",
    "encode",
    "find_format",
    "quantize",
]
