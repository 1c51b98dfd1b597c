"""Encoding and decoding one number at a time, written for reading, exact by fractions.

Slow on purpose, and written with other means than the fast code (rational arithmetic
instead of bits), so that one test can hold the two equal.
"""

from __future__ import annotations

import math
from fractions import Fraction
from typing import TYPE_CHECKING

from harness.errors import NumericsError

if TYPE_CHECKING:
    from harness.numerics.formats import Format


def decode_scalar(fmt: Format, code: int) -> float:
    """The value of one code of an element format."""
    if fmt.kind == "table":
        return fmt.values[code]
    if fmt.kind == "int":
        wraps = fmt.signed and code >= 1 << (fmt.bits - 1)
        return float(code - (1 << fmt.bits) if wraps else code)
    if fmt.kind == "scale":
        return math.nan if code == 255 else math.ldexp(1.0, code - 127)
    sign = -1.0 if code >> (fmt.bits - 1) else 1.0
    magnitude = code & ((1 << (fmt.bits - 1)) - 1)
    exponent = magnitude >> fmt.mantissa
    fraction = magnitude & ((1 << fmt.mantissa) - 1)
    if fmt.specials == "fnuz" and sign < 0 and magnitude == 0:
        return math.nan
    if fmt.specials == "fn" and magnitude == (1 << (fmt.bits - 1)) - 1:
        return math.nan
    if fmt.specials == "ieee" and exponent == (1 << fmt.exponent) - 1:
        return sign * math.inf if fraction == 0 else math.nan
    if exponent == 0:
        return sign * math.ldexp(fraction, fmt.emin - fmt.mantissa)
    significand = fraction + (1 << fmt.mantissa)
    return sign * math.ldexp(significand, exponent - fmt.bias - fmt.mantissa)


def round_scalar(
    exact: Fraction, rounding: str, *, negative: bool, draw: float = 0.0
) -> int:
    """A magnitude in steps, rounded to a whole number of steps.

    Args:
        exact: the magnitude, not negative.
        rounding: a rounding mode of `encode`.
        negative: whether the number is negative; "up" and "down" depend on it.
        draw: "stochastic": in [0, 1); the fraction is rounded up when it exceeds it.
    """
    floor = exact.numerator // exact.denominator
    rest = exact - floor
    up = {
        "nearest_even": rest > Fraction(1, 2)
        or (rest == Fraction(1, 2) and floor % 2 == 1),
        "nearest_away": rest >= Fraction(1, 2),
        "toward_zero": False,
        "away": rest > 0,
        "up": rest > 0 and not negative,
        "down": rest > 0 and negative,
        "stochastic": rest > draw,
    }[rounding]
    return floor + up


def encode_scalar(
    fmt: Format,
    x: float,
    *,
    overflow: str = "saturate",
    rounding: str = "nearest_even",
    draw: float = 0.0,
) -> int:
    """The code of one number; see `harness.numerics.encode`."""
    x = float(x)
    if fmt.kind == "scale":
        return _encode_scale(x, overflow, rounding, draw)
    if math.isnan(x):
        return fmt.nan_result
    if fmt.kind == "table":
        return _encode_table(fmt, x, rounding, draw)
    negative = math.copysign(1.0, x) < 0
    if fmt.kind == "int":
        return _encode_int(fmt, x, rounding, draw, negative=negative)
    sign = 1 << (fmt.bits - 1) if negative else 0
    magnitude = _magnitude(fmt, x, rounding, draw)
    if magnitude is None or magnitude > fmt.largest_code:
        magnitude = _beyond(fmt, overflow)
        if fmt.specials == "fnuz" and magnitude == fmt.nan_code:
            return magnitude
    if fmt.specials == "fnuz" and magnitude == 0:
        return 0
    return magnitude | sign


def _magnitude(fmt: Format, x: float, rounding: str, draw: float) -> int | None:
    """Code of the rounded magnitude, as if the exponent had no end; None for Inf."""
    if math.isinf(x):
        return None
    exact = abs(Fraction(x))
    exponent = fmt.emin
    if exact:
        exponent = max(math.frexp(x)[1] - 1, fmt.emin)
    step = Fraction(2) ** (exponent - fmt.mantissa)
    negative = math.copysign(1.0, x) < 0
    steps = round_scalar(exact / step, rounding, negative=negative, draw=draw)
    return ((exponent - fmt.emin) << fmt.mantissa) + steps


def _beyond(fmt: Format, overflow: str) -> int:
    """Code of a magnitude beyond the largest."""
    if overflow == "saturate":
        return fmt.largest_code
    if overflow == "inf" and fmt.inf_code is not None:
        return fmt.inf_code
    if fmt.nan_code is None:
        raise NumericsError(f"{fmt.name} has neither NaN nor Inf")
    return fmt.nan_code


def _encode_int(
    fmt: Format, x: float, rounding: str, draw: float, *, negative: bool
) -> int:
    low = -(1 << (fmt.bits - 1)) if fmt.signed else 0
    if math.isinf(x):
        whole = low if negative else int(fmt.max)
    else:
        steps = round_scalar(abs(Fraction(x)), rounding, negative=negative, draw=draw)
        whole = min(max(-steps if negative else steps, low), int(fmt.max))
    return whole & ((1 << fmt.bits) - 1)


def _encode_table(fmt: Format, x: float, rounding: str, draw: float) -> int:
    """Nearest entry; a tie goes to the even code (the odd one where away from zero)."""
    values = [Fraction(v) for v in fmt.values]
    if math.isinf(x) or not values[0] < Fraction(x) < values[-1]:
        return 0 if x <= fmt.values[0] else len(values) - 1
    exact = Fraction(x)
    high = next(i for i, v in enumerate(values) if v >= exact)
    low = high - (values[high] != exact)
    if low == high:
        return low
    rest = (exact - values[low]) / (values[high] - values[low])
    nearest_high = rest > Fraction(1, 2) or (rest == Fraction(1, 2) and high % 2 == 0)
    upward = {
        "nearest_even": nearest_high,
        "nearest_away": rest > Fraction(1, 2) or (rest == Fraction(1, 2) and exact > 0),
        "toward_zero": exact < 0,
        "away": exact > 0,
        "up": True,
        "down": False,
        "stochastic": rest > draw,
    }[rounding]
    return high if upward else low


def _encode_scale(x: float, overflow: str, rounding: str, draw: float) -> int:
    """E8M0: powers of two; NaN for what is not positive and finite."""
    if x == 0 and overflow == "saturate":
        return 0
    if not (math.isfinite(x) and x > 0):
        return 255
    exact = Fraction(x)
    floor = max(math.frexp(x)[1] - 1, -127)
    rest = max(exact / Fraction(2) ** floor - 1, Fraction(0))
    code = floor + 127
    up = {
        "nearest_even": rest > Fraction(1, 2)
        or (rest == Fraction(1, 2) and code % 2 == 1),
        "nearest_away": rest >= Fraction(1, 2),
        "toward_zero": False,
        "away": rest > 0,
        "up": rest > 0,
        "down": False,
        "stochastic": rest > draw,
    }[rounding]
    code += up
    if code > 254:
        return 254 if overflow == "saturate" else 255
    return code
