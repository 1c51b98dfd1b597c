"""Codes and values: each number is rounded once, from the type it comes in."""

from __future__ import annotations

from typing import Any, Final

import numpy as np

from harness.errors import NumericsError
from harness.numerics import compiled
from harness.numerics.arrays import as_numpy, floating, integer_codes, widened
from harness.numerics.fast import encode_float32
from harness.numerics.formats import Format, element_format
from harness.numerics.grid import make_grid
from harness.numerics.rounding import (
    OVERFLOWS,
    ROUNDINGS,
    Overflow,
    Rounding,
    round_codes,
)

Array = np.ndarray[Any, np.dtype[Any]]
#: Elements worked on at a time: the temporaries stay in the second-level cache.
_CHUNK: Final = 1 << 15


def decode(codes: Any, format: str) -> Any:  # noqa: A002 - the field's word
    """Values of codes.

    Args:
        codes: unsigned codes (signed integers are taken as two's complement), any
            shape, one code an entry; a NumPy array or a torch tensor.
        format: an element format's name.

    Returns:
        float32, the same shape, the same kind of array and device.

    Raises:
        NumericsError: unknown format, a block format (`Quantized.dequantize`), or
            codes that do not fit the format's bits.
    """
    fmt = element_format(format)
    array, back = as_numpy(codes)
    return back(decode_array(integer_codes(array, fmt.bits), fmt))


def decode_array(codes: Array, fmt: Format) -> Array:
    """float32 values of checked uint8 or uint16 codes."""
    if fmt.name == "fp16":
        return codes.view(np.float16).astype(np.float32)
    if fmt.name == "bf16":
        return (codes.astype(np.uint32) << 16).view(np.float32)
    kernels = compiled.loops(codes)
    if kernels is None:
        return fmt.decoded[codes]
    one = np.ones((1, 1, 1), np.float32)
    values = compiled.decode_scaled(
        kernels,
        codes,
        make_grid(codes.shape, None, None),
        one,
        points=None,
        element=fmt,
    )
    return values.reshape(codes.shape)


def encode(
    x: Any,
    format: str,  # noqa: A002 - the field's word
    *,
    overflow: Overflow = "saturate",
    rounding: Rounding = "nearest_even",
    seed: int | None = None,
) -> Any:
    """Codes of values, rounded once, from the type that they come in.

    NaN becomes the format's quiet NaN without payload and sign; in a format without
    NaN minus zero, or zero. Inf is an overflow. Zero, and what rounds to it, keeps its
    sign where the format has one. fp8_e8m0 holds no zero, sign or Inf: negative numbers
    and Inf become its NaN; what is below 2**-127 becomes 2**-127, zero too under
    "saturate", else NaN.

    Args:
        x: float16, bfloat16, float32 or float64 values, any shape; NumPy or torch.
        format: an element format's name.
        overflow: what becomes of a value that, rounded as if the exponent had no end,
            is beyond the largest finite one: the largest finite one ("saturate"),
            "nan", or "inf" (in a format without Inf: NaN). Integers and tables always
            saturate.
        rounding: "nearest_even", "nearest_away", "toward_zero", "away" (from zero),
            "up", "down", or "stochastic" (up with the probability of the fraction).
        seed: of the draws of "stochastic"; needed there, refused elsewhere.

    Returns:
        uint8 codes, uint16 for fp16 and bf16; one code an entry, unpacked.

    Raises:
        NumericsError: unknown format, rule or mode; not floating point; NaN or Inf
            asked of a format that has neither.
    """
    fmt = element_format(format)
    check_rules(fmt, overflow, rounding, seed)
    array, back = as_numpy(x)
    return back(encode_array(floating(array), fmt, overflow, rounding, seed))


def encode_array(
    array: Array, fmt: Format, overflow: str, rounding: str, seed: int | None
) -> Array:
    """Codes of a checked floating-point array, in its shape."""
    flat = np.ascontiguousarray(array).reshape(-1)
    kernels = compiled.loops(flat)
    if kernels is not None and compiled.can_encode(fmt, rounding):
        grid = make_grid(flat.shape, None, None)
        made = compiled.encode_scaled(
            kernels,
            flat.reshape(grid.view),
            grid,
            np.ones((1, 1, 1), np.float32),
            points=None,
            element=fmt,
            overflow=overflow,
        )
        return made.reshape(array.shape)
    codes = np.empty(flat.shape, np.uint16 if fmt.bits == 16 else np.uint8)
    generator = np.random.default_rng(seed)
    for start in range(0, flat.size, _CHUNK):
        part = slice(start, start + _CHUNK)
        wide = widened(flat[part])
        if (
            rounding == "nearest_even"
            and fmt.kind == "float"
            and wide.dtype == np.float32
        ):
            encode_float32(wide, fmt, overflow, codes[part])
            continue
        draws = generator.random(wide.size) if rounding == "stochastic" else None
        codes[part] = round_codes(wide, fmt, overflow, rounding, draws)
    return codes.reshape(array.shape)


def check_rules(fmt: Format, overflow: str, rounding: str, seed: int | None) -> None:
    """Refuse rules that do not exist or do not fit the format.

    Raises:
        NumericsError: says what was given and what is possible.
    """
    if overflow not in OVERFLOWS:
        raise NumericsError(f"overflow={overflow!r}, but should be one of {OVERFLOWS}")
    if rounding not in ROUNDINGS:
        raise NumericsError(_unknown_rounding(rounding))
    if (rounding == "stochastic") != (seed is not None):
        wanted = "needs a seed" if seed is None else "takes no seed"
        raise NumericsError(f"rounding={rounding!r} {wanted}, but seed={seed!r}")
    none = fmt.kind == "float" and fmt.specials == "none"
    if none and overflow != "saturate":
        raise NumericsError(
            f"overflow={overflow!r}, but {fmt.name} has neither NaN nor Inf; saturate"
        )


def _unknown_rounding(rounding: object) -> str:
    import difflib

    close = difflib.get_close_matches(str(rounding), ROUNDINGS, n=1)
    hint = f"did you mean {close[0]!r}?" if close else f"known: {', '.join(ROUNDINGS)}"
    return f"unknown rounding {rounding!r}; {hint}"


def round_trip(x: Array, fmt_name: str) -> Array:
    """decode(encode(x)), saturating: what a number becomes in the format."""
    result: Array = decode(encode(x, fmt_name), fmt_name)
    return result
