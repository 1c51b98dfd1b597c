"""How scales are computed: the specifications' rules and the vendors' variants.

Element formats (float32 scales): "amax" is amax / max; "pow2" rounds that up to a
power of two (UE8M0 scales); "unit" is 1, a plain cast; "full" (signed integers) is
amax / (2**(bits - 1) - 0.5), which lets the most negative code be used.

MX (E8M0 scales; `emax` the element's largest exponent, `max` its largest value):
"floor" is 2**(floor(log2 amax) - emax), OCP MX v1.0 section 6.3; "ceil" is
2**(ceil(log2 amax) - emax); "rceil" is 2**ceil(log2(amax / max)), which lets nothing
saturate; "even" rounds amax to the element's mantissa, halves up, then floors.

NVFP4 (E4M3 scales of blocks, one float32 scale of the tensor): "amax" has the tensor
scale amax / (6 * 448); "no_global" has 1; "normal" is "amax" with block scales not
below 2**-6, the smallest normal one; "4over6" maps each block's largest value to 6 or
to 4, whichever has the smaller squared error, with the tensor scale amax / (6 * 256).
"""

from __future__ import annotations

from typing import Any, Final

import numpy as np

from harness.errors import NumericsError
from harness.numerics.codec import decode_array, encode_array
from harness.numerics.formats import Format, element_format

Array = np.ndarray[Any, np.dtype[Any]]

#: OCP MX v1.0 section 6.3 is "floor"; the others are what vendors do.
MX_RULES: Final = ("floor", "ceil", "rceil", "even")
NV_RULES: Final = ("amax", "no_global", "normal", "4over6")
#: Of element formats with float32 scales.
ELEMENT_RULES: Final = ("amax", "pow2", "unit")


def check_rule(fmt: Format, rule: str | None) -> str:
    """The rule to use, the format's own if none was asked for.

    Raises:
        NumericsError: not a rule of that format.
    """
    used = rule or fmt.rule
    if fmt.kind != "block":
        signed_integer = fmt.kind == "int" and fmt.signed
        known: tuple[str, ...] = ELEMENT_RULES + ("full",) * signed_integer
    else:
        known = MX_RULES if fmt.scale == "fp8_e8m0" else NV_RULES
    if used not in known:
        raise NumericsError(
            f"rule={used!r}, but a rule of {fmt.name} should be one of {known}"
        )
    return used


def element_scales(fmt: Format, amax: Array, rule: str) -> Array:
    """float32 scales of groups; 1 for a group of zeros.

    Raises:
        NumericsError: a group's scale leaves float32.
    """
    if rule == "unit":
        return np.ones(amax.shape, np.float32)
    largest = fmt.max
    if fmt.kind == "int" and not fmt.signed:
        # Symmetric about the zero point: half the codes lie on either side.
        largest = 2.0 ** (fmt.bits - 1) - 1
    if rule == "full":
        largest = 2.0 ** (fmt.bits - 1) - 0.5
    with np.errstate(over="ignore"):
        scales = (amax / amax.dtype.type(largest)).astype(np.float32)
    if rule == "pow2":
        fraction, exponent = np.frexp(scales)
        # 2**127 is the largest power; what needs more saturates.
        exponent = np.minimum(exponent - (fraction == 0.5), 127)
        scales = np.where(scales > 0, np.ldexp(np.float32(1), exponent), scales)
    check_finite(scales, amax)
    # A subnormal amax may underflow to a zero scale, which would divide by zero.
    return np.where(scales > 0, scales, np.float32(1))


def range_scales(fmt: Format, low: Array, high: Array) -> tuple[Array, Array]:
    """float32 scales and int32 zero points that cover [low, high] and zero.

    Args:
        fmt: an integer format.
        low: smallest finite value of each group.
        high: largest.
    """
    first = -(1 << (fmt.bits - 1)) if fmt.signed else 0
    low, high = np.minimum(low, 0), np.maximum(high, 0)
    steps = low.dtype.type((1 << fmt.bits) - 1)
    with np.errstate(over="ignore"):
        # Halves, so that the width of a group does not leave its type.
        scales = ((high / 2 - low / 2) / (steps / 2)).astype(np.float32)
    check_finite(scales, high)
    scales = np.where(scales > 0, scales, np.float32(1))
    points = np.rint(first - low / scales)
    return scales, np.clip(points, first, fmt.max).astype(np.int32)


def mx_scales(element: Format, amax: Array, rule: str) -> Array:
    """Powers of two; E8M0 holds 2**-127 to 2**127. A block of zeros gets 2**-127."""
    if amax.dtype == np.float32:
        # A subnormal amax has the field 0 or 1, which the clip makes 2**-127.
        bits = amax.view(np.uint32) + np.uint32(mx_addend(element, rule))
        return _powers((bits >> np.uint32(23)).astype(np.int32) - element.emax)
    fraction, exponent = np.frexp(np.where(amax > 0, amax, 1.0))
    fraction, power = 2 * fraction, exponent - 1
    if rule == "even":
        power = power + (fraction >= 2 - 2.0 ** -(element.mantissa + 1))
    elif rule != "floor":
        least = 1.0 if rule == "ceil" else element.max / 2.0**element.emax
        power = power + (fraction > least)
    return _powers(np.where(amax > 0, power - element.emax + 127, 0))


def mx_addend(element: Format, rule: str) -> int:
    """What added to float32 bits of amax makes its exponent field that of the rule.

    "floor" adds nothing; "even" rounds half up at the element's last mantissa bit;
    "ceil" carries when there is a fraction, "rceil" when it exceeds that of the largest
    value.
    """
    if rule == "floor":
        return 0
    if rule == "even":
        return 1 << (22 - element.mantissa)
    if rule == "ceil":
        return 0x7FFFFF
    fraction = np.float32(element.max).view(np.uint32) & np.uint32(0x7FFFFF)
    return 0x7FFFFF - int(fraction)


def _powers(codes: Array) -> Array:
    """2**(code - 127), the codes clipped to E8M0's range; exact in float32."""
    codes = np.clip(codes, 0, 254).astype(np.int32)
    # 2**-127 is a subnormal: half of the smallest normal number.
    bits = np.where(codes > 0, codes << 23, np.int32(1 << 22))
    return bits.astype(np.int32).view(np.float32)


def nvfp4_tensor_scale(fmt: Format, largest: float, rule: str) -> float:
    """The float32 scale of an NVFP4 tensor whose largest magnitude is given.

    Raises:
        NumericsError: it leaves float32.
    """
    if rule == "no_global":
        return 1.0
    # 4 over 6 needs scales half as large again, and 448 / 256 leaves that room.
    scale_max = 256.0 if rule == "4over6" else element_format(fmt.scale).max
    with np.errstate(over="ignore"):
        scale = np.float32(largest / (fmt.max * scale_max))
    check_finite(np.array(scale), np.array(largest))
    return float(scale) or 1.0


def nvfp4_block_scales(
    fmt: Format, amax: Array, tensor: float, *, top: float = 6.0, smallest: float = 0.0
) -> Array:
    """E4M3 scales of blocks, decoded to float32.

    A block whose scale rounds to zero keeps the smallest one, so nothing divides by
    zero and its values become zeros.

    Args:
        fmt: the block format.
        amax: largest magnitude of each block.
        tensor: the tensor's scale.
        top: element value that the largest magnitude is mapped to.
        smallest: scales below it become it; 0: E4M3's smallest subnormal.
    """
    scale = element_format(fmt.scale)
    kind = amax.dtype.type
    wanted = amax / kind(top) / kind(tensor)
    codes = encode_array(wanted, scale, "saturate", "nearest_even", None)
    return np.maximum(decode_array(codes, scale), np.float32(smallest or scale.min))


def check_finite(scales: Array, amax: Array) -> None:
    """Refuse scales that left float32.

    Raises:
        NumericsError: says the amax that did it.
    """
    if not np.isfinite(scales).all():
        worst = float(np.asarray(amax)[~np.isfinite(scales)].reshape(-1)[0])
        raise NumericsError(
            f"a group with amax={worst:.6g} needs a scale beyond float32; "
            "divide the tensor first"
        )
