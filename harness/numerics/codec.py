"""Codes and values: each number is rounded once, from the type it comes in."""

from __future__ import annotations

from typing import Any, Final, Literal

import numpy as np

from harness.errors import NumericsError
from harness.numerics.formats import Format, find_format

Array = np.ndarray[Any, np.dtype[Any]]
Overflow = Literal["saturate", "nan", "inf"]
_OVERFLOW: Final = ("saturate", "nan", "inf")
#: Elements worked on at a time: the temporaries stay in the second-level cache.
_CHUNK: Final = 1 << 16


def decode(codes: Any, format: str) -> Any:  # noqa: A002 - the field's word
    """Values of codes.

    Args:
        codes: unsigned codes (int8 and int4 as two's complement bits), any shape; a
            NumPy array or a torch tensor.
        format: an element format's name.

    Returns:
        float32, the same shape, the same kind of array and device.

    Raises:
        NumericsError: unknown format, or a block format (`Quantized.dequantize`).
    """
    fmt = element_format(format)
    array, back = as_numpy(codes)
    if fmt.name == "fp16":
        return back(array.astype(np.uint16).view(np.float16).astype(np.float32))
    if fmt.name == "bf16":
        return back((array.astype(np.uint32) << 16).view(np.float32))
    table = fmt.decoded.astype(np.float32)
    return back(table[array.astype(np.uint8) & ((1 << fmt.bits) - 1)])


def encode(x: Any, format: str, *, overflow: Overflow = "saturate") -> Any:  # noqa: A002
    """Codes of values, rounded to nearest, ties to even, once.

    NaN becomes the format's NaN, or zero in a format without one. Inf is an overflow.
    A zero keeps its sign where the format has one.

    Args:
        x: float16, bfloat16, float32 or float64 values, any shape.
        format: an element format's name.
        overflow: what becomes of a value beyond the largest finite one: the largest
            finite one, NaN, or Inf (in a format without Inf: NaN).

    Returns:
        uint8 codes, uint16 for fp16 and bf16; one code an entry, unpacked.

    Raises:
        NumericsError: unknown format or rule; not floating point; NaN or Inf asked of
            a format that has neither.
    """
    fmt = element_format(format)
    if overflow not in _OVERFLOW:
        raise NumericsError(f"overflow={overflow!r}, but should be one of {_OVERFLOW}")
    array, back = as_numpy(x)
    array = floating(array)
    flat = np.ascontiguousarray(array).reshape(-1)
    codes = np.empty(flat.shape, np.uint16 if fmt.bits == 16 else np.uint8)
    for start in range(0, flat.size, _CHUNK):
        part = slice(start, start + _CHUNK)
        codes[part] = _encode(flat[part], fmt, overflow)
    return back(codes.reshape(array.shape))


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


def as_numpy(x: Any) -> tuple[Array, Any]:
    """The array, and a function that brings a result back to where `x` was."""
    if type(x).__module__.split(".")[0] == "torch":
        import torch

        device = x.device
        tensor = x.detach().cpu()
        if tensor.dtype == torch.bfloat16:
            # float32 holds every bfloat16 value: nothing is rounded.
            tensor = tensor.float()
        return tensor.numpy(), lambda a: torch.from_numpy(np.ascontiguousarray(a)).to(
            device
        )
    array = np.asarray(x)
    if array.dtype == object:
        raise NumericsError(
            "an array of objects cannot be encoded; give it a float dtype"
        )
    return array, lambda a: a


def floating(array: Array) -> Array:
    """float32 or float64 holding the same values exactly.

    Raises:
        NumericsError: the array is not floating point.
    """
    if array.dtype in (np.float32, np.float64):
        return array
    if array.dtype == np.float16 or array.dtype.name == "bfloat16":
        return array.astype(np.float32)
    raise NumericsError(
        f"dtype={array.dtype}, but should be floating point (float16, bfloat16, "
        "float32 or float64); convert it on purpose"
    )


def _encode(x: Array, fmt: Format, overflow: Overflow) -> Array:
    if fmt.kind == "table":
        return _encode_table(x, fmt)
    if fmt.kind == "int":
        return _encode_int(x, fmt)
    if fmt.kind == "scale":
        return _encode_scale(x)
    return _encode_float(x, fmt, overflow)


def _exponent(magnitude: Array) -> Array:
    """floor(log2) of positive normal numbers, from their bits; tiny for zero."""
    if magnitude.dtype == np.float32:
        return (magnitude.view(np.int32) >> 23) - 127
    return ((magnitude.view(np.int64) >> 52) - 1023).astype(np.int32)


def _power(exponent: Array, like: Array) -> Array:
    """2**exponent in the dtype of `like`, by building its bits."""
    if like.dtype == np.float32:
        return ((exponent + 127) << 23).view(np.float32)
    return ((exponent.astype(np.int64) + 1023) << 52).view(np.float64)


def _encode_float(x: Array, fmt: Format, overflow: Overflow) -> Array:
    # In float32, 2**(mantissa - emin) of bf16 would leave the range.
    wide = x.astype(np.float64) if fmt.bits == 16 else x
    magnitude = np.abs(wide)
    special = ~np.isfinite(magnitude)
    safe = np.where(special, 0, magnitude).astype(magnitude.dtype)
    exponent = np.maximum(_exponent(safe), fmt.emin)
    # x / 2**(exponent - mantissa) is exact: only the exponent changes, and the power
    # is a normal number (mantissa >= 1).
    shift = fmt.mantissa - exponent
    # Round to nearest even happens here, and only here.
    steps = np.rint(safe * _power(shift, safe)).astype(np.int64)
    codes = ((exponent - fmt.emin).astype(np.int64) << fmt.mantissa) + steps
    largest = _largest_code(fmt)
    beyond = (codes > largest) | (special & ~np.isnan(wide))
    codes = np.where(beyond, _overflow_code(fmt, overflow, largest), codes)
    negative = np.signbit(wide)
    sign = negative.astype(np.int64) << (fmt.bits - 1)
    if fmt.specials == "fnuz":
        sign = np.where(codes == 0, 0, sign)
        nan_code = 1 << (fmt.bits - 1)
        if overflow != "saturate":
            sign = np.where(beyond, 0, sign)
    else:
        nan_code = _nan_code(fmt)
    codes = np.where(np.isnan(wide), nan_code, codes | sign)
    return codes.astype(np.uint16 if fmt.bits == 16 else np.uint8)


def _largest_code(fmt: Format) -> int:
    """Code of the largest finite magnitude."""
    if fmt.specials == "ieee":
        return (((1 << fmt.exponent) - 1) << fmt.mantissa) - 1
    return (1 << (fmt.bits - 1)) - (2 if fmt.specials == "fn" else 1)


def _nan_code(fmt: Format) -> int:
    """The quiet NaN without payload; zero where the format has no NaN."""
    if fmt.specials == "ieee":
        return _largest_code(fmt) + 1 + (1 << (fmt.mantissa - 1))
    return _largest_code(fmt) + 1 if fmt.specials == "fn" else 0


def _overflow_code(fmt: Format, overflow: Overflow, largest: int) -> int:
    if overflow == "saturate":
        return largest
    if fmt.specials == "none":
        raise NumericsError(
            f"overflow={overflow!r}, but {fmt.name} has neither NaN nor Inf; saturate"
        )
    if overflow == "inf" and fmt.specials == "ieee":
        return largest + 1
    return 1 << (fmt.bits - 1) if fmt.specials == "fnuz" else _nan_code(fmt)


def _encode_int(x: Array, fmt: Format) -> Array:
    low = -(1 << (fmt.bits - 1)) if fmt.signed else 0
    rounded = np.clip(np.rint(np.nan_to_num(x, nan=0.0)), low, fmt.max)
    mask = (1 << fmt.bits) - 1
    return (rounded.astype(np.int64) & mask).astype(np.uint8)


def _encode_scale(x: Array) -> Array:
    """E8M0, to the nearest power of two; ties to even; NaN for what is not positive."""
    positive = np.isfinite(x) & (x > 0)
    safe = np.where(positive, x, 1.0)
    fraction, exponent = np.frexp(safe.astype(np.float64))
    floor = exponent - 1
    # In linear distance the middle of [2**e, 2**(e+1)] is 1.5 * 2**e.
    up = (fraction > 0.75) | ((fraction == 0.75) & (floor % 2 == 0))
    code = np.clip(floor + up + 127, 0, 254)
    return np.where(positive, code, 255).astype(np.uint8)


def _encode_table(x: Array, fmt: Format) -> Array:
    values = np.array(fmt.values)
    middles = (values[1:] + values[:-1]) / 2
    return np.searchsorted(middles, np.nan_to_num(x, nan=0.0)).astype(np.uint8)


def round_trip(x: Array, fmt_name: str) -> Array:
    """decode(encode(x)), saturating: what a number becomes in the format."""
    result: Array = decode(encode(x, fmt_name), fmt_name)
    return result
