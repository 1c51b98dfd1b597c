"""Rounding any float type to any element format, in every mode, with NumPy only.

Works on the bits of the number as integers, so nothing is rounded twice and no mode of
the processor matters. This is the general path; `fast` holds the one that most calls
take.
"""

from __future__ import annotations

from typing import Any, Final, Literal

import numpy as np

from harness.numerics.formats import Format

Array = np.ndarray[Any, np.dtype[Any]]
Overflow = Literal["saturate", "nan", "inf"]
Rounding = Literal[
    "nearest_even",
    "nearest_away",
    "toward_zero",
    "away",
    "up",
    "down",
    "stochastic",
]
OVERFLOWS: Final = ("saturate", "nan", "inf")
ROUNDINGS: Final = (
    "nearest_even",
    "nearest_away",
    "toward_zero",
    "away",
    "up",
    "down",
    "stochastic",
)


def round_codes(
    x: Array, fmt: Format, overflow: str, rounding: str, draws: Array | None
) -> Array:
    """Codes of float32 or float64 values.

    Args:
        x: values, any shape.
        fmt: an element format.
        overflow: checked rule.
        rounding: checked mode.
        draws: float64 in [0, 1) of the same shape for "stochastic", else None.

    Returns:
        uint16 codes for 16-bit formats, else uint8.
    """
    with np.errstate(all="ignore"):
        if fmt.kind == "table":
            return _table(x, fmt, rounding, draws)
        if fmt.kind == "int":
            return _whole(x, fmt, rounding, draws)
        if fmt.kind == "scale":
            return _scale(x, overflow, rounding, draws)
        return _float(x, fmt, overflow, rounding, draws)


def _split(x: Array) -> tuple[Array, Array, int]:
    """Significand as an integer, exponent, and number of fraction bits.

    The value of a finite number is significand * 2**(exponent - fraction bits).
    """
    if x.dtype == np.float32:
        bits, width, bias = x.view(np.uint32).astype(np.int64), 23, 127
        field = (bits >> 23) & 0xFF
    else:
        bits, width, bias = x.view(np.int64), 52, 1023
        field = (bits >> 52) & 0x7FF
    fraction = bits & ((1 << width) - 1)
    significand = np.where(field > 0, fraction | (1 << width), fraction)
    return significand, np.maximum(field, 1) - bias, width


def _float(
    x: Array, fmt: Format, overflow: str, rounding: str, draws: Array | None
) -> Array:
    significand, exponent, width = _split(x)
    kept = np.maximum(exponent, fmt.emin)
    # Bits below the last one that the format keeps; what is shifted out is the rest.
    shift = width - fmt.mantissa + (kept - exponent)
    negative = np.signbit(x)
    steps = _steps(
        significand, shift, width, rounding=rounding, negative=negative, draws=draws
    )
    codes = ((kept - fmt.emin) << fmt.mantissa) + steps
    nan = np.isnan(x)
    beyond = (codes > fmt.largest_code) | np.isinf(x)
    codes = np.where(beyond, overflow_code(fmt, overflow), codes)
    sign = negative.astype(np.int64) << (fmt.bits - 1)
    if fmt.specials == "fnuz":
        # The code of negative zero is NaN: zeros have no sign, and neither has NaN.
        sign = np.where((codes == 0) | (codes == fmt.nan_code), 0, sign)
    codes = np.where(nan, fmt.nan_result, codes | sign)
    return codes.astype(np.uint16 if fmt.bits == 16 else np.uint8)


def overflow_code(fmt: Format, overflow: str) -> int:
    """Code of a positive value beyond the largest; checked to exist."""
    if overflow == "saturate":
        return fmt.largest_code
    if overflow == "inf" and fmt.inf_code is not None:
        return fmt.inf_code
    assert fmt.nan_code is not None  # sanity check: the caller refused it
    return fmt.nan_code


def _steps(
    significand: Array,
    shift: Array,
    width: int,
    *,
    rounding: str,
    negative: Array,
    draws: Array | None,
) -> Array:
    """Divide significands by 2**shift, rounded to a whole number."""
    # Beyond width + 2 the quotient is zero and the rest below one half, as at it.
    near = np.minimum(shift, width + 2)
    floor = significand >> near
    rest = significand - (floor << near)
    half = np.int64(1) << (near - 1)
    if rounding == "nearest_even":
        up = (rest > half) | ((rest == half) & (floor & 1 == 1))
    elif rounding == "nearest_away":
        up = rest >= half
    elif rounding == "stochastic":
        assert draws is not None  # sanity check
        up = np.ldexp(rest.astype(np.float64), -np.minimum(shift, 2000)) > draws
    else:
        up = (rest > 0) & _outward(rounding, negative)
    result: Array = floor + up
    return result


def _outward(rounding: str, negative: Array) -> Array:
    """Whether a directed mode moves a magnitude away from zero."""
    return {
        "toward_zero": np.zeros_like(negative),
        "away": np.ones_like(negative),
        "up": ~negative,
        "down": negative,
    }[rounding]


def _whole(x: Array, fmt: Format, rounding: str, draws: Array | None) -> Array:
    low = -(1 << (fmt.bits - 1)) if fmt.signed else 0
    signed = round_whole(x, low, int(fmt.max), rounding, draws)
    return (signed & ((1 << fmt.bits) - 1)).astype(np.uint8)


def round_whole(
    x: Array, low: Any, high: Any, rounding: str, draws: Array | None
) -> Array:
    """Whole numbers in [low, high], as int64; NaN becomes zero (or the nearer bound).

    Clipping first keeps the arithmetic exact: every bound is a whole number.
    """
    clipped = np.clip(np.where(np.isnan(x), 0, x), low, high).astype(x.dtype)
    if rounding == "nearest_even":
        nearest: Array = np.rint(clipped).astype(np.int64)
        return nearest
    magnitude = np.abs(clipped)
    floor = np.floor(magnitude)
    rest = magnitude - floor
    negative = clipped < 0
    if rounding == "nearest_away":
        whole = floor + (rest >= 0.5)
    elif rounding == "stochastic":
        whole = floor + (rest > draws)
    else:
        whole = floor + ((rest > 0) & _outward(rounding, negative))
    signed: Array = np.where(negative, -whole, whole).astype(np.int64)
    return signed


def _table(x: Array, fmt: Format, rounding: str, draws: Array | None) -> Array:
    values = np.array(fmt.values)
    inside = np.clip(np.where(np.isnan(x), 0, x), values[0], values[-1])
    inside = inside.astype(np.float64)
    high = np.searchsorted(values, inside)
    low = high - (values[high] != inside)
    # Compared with the middle by a subtraction that is exact near it (Sterbenz).
    down, up = inside - values[low], values[high] - inside
    negative = inside < 0
    if rounding == "nearest_even":
        upward = (down > up) | ((down == up) & (high % 2 == 0))
    elif rounding == "nearest_away":
        upward = (down > up) | ((down == up) & (inside > 0))
    elif rounding == "stochastic":
        upward = down > draws * (down + up)
    else:
        upward = _outward(rounding, negative) != negative
    codes = np.where(upward, high, low)
    return np.where(np.isnan(x), fmt.nan_result, codes).astype(np.uint8)


def _scale(x: Array, overflow: str, rounding: str, draws: Array | None) -> Array:
    """E8M0: the middle of [2**e, 2**(e+1)] is 1.5 * 2**e; a tie goes to even codes."""
    # Zero is below the smallest power, to which "saturate" moves it.
    positive = np.isfinite(x) & ((x > 0) | ((x == 0) & (overflow == "saturate")))
    fraction, exponent = np.frexp(np.where(positive, x, 1.0).astype(np.float64))
    tiny = (exponent < -126) | (fraction == 0)
    code = np.where(tiny, 0, exponent + 126)
    rest = np.where(tiny, 0.0, 2 * fraction - 1)
    if rounding == "nearest_even":
        up = (rest > 0.5) | ((rest == 0.5) & (code % 2 == 1))
    elif rounding == "nearest_away":
        up = rest >= 0.5
    elif rounding == "stochastic":
        assert draws is not None  # sanity check
        up = rest > draws
    else:
        up = (rest > 0) & (rounding in ("away", "up"))
    code = code + up
    code = np.where(code > 254, 254 if overflow == "saturate" else 255, code)
    return np.where(positive, code, 255).astype(np.uint8)
