"""Distance in units in the last place: how many representable numbers lie between.

Every float format here is sign and magnitude, so its bits, read as an integer with
the sign applied, count the representable numbers in order (-0 and +0 are one).
"""

from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np

Array = np.ndarray[Any, np.dtype[Any]]


def is_float(dtype: np.dtype[Any]) -> bool:
    """Whether it is a floating-point type, those of ml_dtypes included."""
    if dtype.kind == "f":
        return True
    return dtype.kind == "V" and dtype.name.startswith(("bfloat", "float"))


def ordinals(values: Array) -> Array:
    """Place of each number in the order of its format, as int64; zero is 0.

    Args:
        values: any float dtype, NumPy's or ml_dtypes'. NaN gives some place beyond
            infinity; mask it before.
    """
    dtype = values.dtype
    width = dtype.itemsize * 8
    bits = values.view(np.dtype(f"i{dtype.itemsize}")).astype(np.int64)
    if dtype.name == "float8_e8m0fnu":
        return bits & 0xFF
    # A 4 or 6 bit type lies in the low bits of its byte.
    used = ml_dtypes.finfo(dtype).bits if dtype.kind == "V" else width
    sign = np.int64(1) << np.int64(used - 1) if used < 64 else None
    if sign is None:
        return np.where(bits < 0, np.iinfo(np.int64).min - bits, bits)
    magnitude = bits & (sign - 1)
    return np.where(bits & sign, -magnitude, magnitude)


def ulp_distance(reference: Array, candidate: Array) -> Array:
    """Representable numbers of the reference's dtype between the two, elementwise.

    The candidate is first rounded to the reference's dtype. Integers and bool:
    the absolute difference. Infinity is one place beyond the largest number; NaN
    must be masked by the caller.

    Returns:
        uint64, shape of the inputs.
    """
    dtype = reference.dtype
    if not is_float(dtype):
        return _integer_distance(reference, candidate)
    with np.errstate(over="ignore", invalid="ignore"):
        other = candidate.astype(dtype, copy=False)
    return _apart(ordinals(reference), ordinals(other))


def _integer_distance(reference: Array, candidate: Array) -> Array:
    if reference.dtype == candidate.dtype == np.dtype(np.uint64):
        return np.maximum(reference, candidate) - np.minimum(reference, candidate)
    if reference.dtype.kind in "iub" and candidate.dtype == reference.dtype:
        return _apart(reference.astype(np.int64), candidate.astype(np.int64))
    wide = np.abs(candidate.astype(np.float64) - reference.astype(np.float64))
    return np.clip(np.rint(wide), 0, 2.0**63).astype(np.uint64)


def _apart(first: Array, second: Array) -> Array:
    """|first - second| of int64, which may need all 64 bits: wrapping gives it."""
    high, low = np.maximum(first, second), np.minimum(first, second)
    return high.view(np.uint64) - low.view(np.uint64)
