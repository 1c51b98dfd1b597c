"""Other people's implementations of our formats, behind one shape."""

from __future__ import annotations

import gfloat
import ml_dtypes
import numpy as np
from gfloat import formats as gf

from harness.numerics import FORMATS

ML = {
    "fp8_e4m3": ml_dtypes.float8_e4m3fn,
    "fp8_e5m2": ml_dtypes.float8_e5m2,
    "fp8_e4m3fnuz": ml_dtypes.float8_e4m3fnuz,
    "fp8_e5m2fnuz": ml_dtypes.float8_e5m2fnuz,
    "fp8_e8m0": ml_dtypes.float8_e8m0fnu,
    "fp6_e2m3": ml_dtypes.float6_e2m3fn,
    "fp6_e3m2": ml_dtypes.float6_e3m2fn,
    "fp4_e2m1": ml_dtypes.float4_e2m1fn,
    "int4": ml_dtypes.int4,
    "uint4": ml_dtypes.uint4,
    "int8": np.int8,
    "uint8": np.uint8,
    "fp16": np.float16,
    "bf16": ml_dtypes.bfloat16,
}
GFLOAT = {
    "fp8_e4m3": gf.format_info_ocp_e4m3,
    "fp8_e5m2": gf.format_info_ocp_e5m2,
    "fp8_e8m0": gf.format_info_ocp_e8m0,
    "fp6_e2m3": gf.format_info_ocp_e2m3,
    "fp6_e3m2": gf.format_info_ocp_e3m2,
    "fp4_e2m1": gf.format_info_ocp_e2m1,
    "fp8_e1m6": gfloat.FormatInfo(
        name="e1m6",
        k=8,
        precision=7,
        bias=1,
        is_signed=True,
        domain=gfloat.Domain.Finite,
        has_nz=True,
        num_high_nans=0,
        has_subnormals=True,
        is_twos_complement=False,
    ),
    "fp16": gf.format_info_binary16,
    "bf16": gf.format_info_bfloat16,
}
#: Rounding modes that gfloat has too.
GFLOAT_MODES = {
    "nearest_even": gfloat.RoundMode.TiesToEven,
    "nearest_away": gfloat.RoundMode.TiesToAway,
    "toward_zero": gfloat.RoundMode.TowardZero,
    "up": gfloat.RoundMode.TowardPositive,
    "down": gfloat.RoundMode.TowardNegative,
}
FLOATS = [name for name, fmt in FORMATS.items() if fmt.kind == "float"]
ELEMENTS = [name for name, fmt in FORMATS.items() if fmt.kind != "block"]
SMALL = [name for name in ELEMENTS if FORMATS[name].bits <= 8]
BLOCKS = [name for name, fmt in FORMATS.items() if fmt.kind == "block"]


def all_codes(name):
    """Every code of a format, unpacked."""
    bits = FORMATS[name].bits
    return np.arange(1 << bits).astype(np.uint16 if bits == 16 else np.uint8)


def same_values(a, b):
    """Equal numbers with equal signs of zero; NaN where the other has NaN."""
    a, b = np.asarray(a, np.float32), np.asarray(b, np.float32)
    nan = np.isnan(a)
    signs = np.signbit(a) == np.signbit(b)
    return bool(np.where(nan, np.isnan(b), (a == b) & signs).all())


def midpoints(name):
    """Middles between neighbouring values, and the float32 on either side of each."""
    table = FORMATS[name].decoded
    finite = np.unique(table[np.isfinite(table)].astype(np.float64))
    # The middle between the largest value and the next that there would be.
    ends = [2 * finite[-1] - finite[-2], 2 * finite[0] - finite[1]]
    values = np.sort(np.concatenate([finite, ends]))
    middles = ((values[1:] + values[:-1]) / 2).astype(np.float32)
    with np.errstate(over="ignore"):
        below = np.nextafter(middles, np.float32(-np.inf))
        above = np.nextafter(middles, np.float32(np.inf))
    return np.concatenate([middles, below, above])


def powers_of_two():
    """Every power of two of float32, both signs, with zero, Inf and NaN."""
    powers = np.ldexp(np.float32(1), np.arange(-149, 128)).astype(np.float32)
    special = np.array([0.0, np.inf, np.nan], np.float32)
    positive = np.concatenate([powers, special])
    return np.concatenate([positive, -positive])


def ml_encode(x, name):
    """Codes by ml_dtypes after clipping, which is how it saturates; NaN excluded."""
    fmt = FORMATS[name]
    with np.errstate(all="ignore"):
        clipped = np.clip(x, -fmt.max, fmt.max).astype(x.dtype)
        wide = clipped if fmt.bits == 16 else clipped.astype(x.dtype)
        return wide.astype(ML[name]).view(np.uint16 if fmt.bits == 16 else np.uint8)
