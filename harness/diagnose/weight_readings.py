"""Candidate causes in a weight's codes: misread, or rounded otherwise."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import ml_dtypes
import numpy as np

from harness.diagnose.observation import Observation
from harness.diagnose.types import FLUSHED
from harness.diagnose.weight_codes import Named, again, decoded
from harness.numerics import FORMATS, Quantized, decode

Array = np.ndarray[Any, np.dtype[Any]]


def readings(q: Quantized) -> Iterator[Named]:
    """The same bytes taken for something else."""
    own = FORMATS[q.element]
    by = q.expanded_scales()
    for other in FORMATS.values():
        same_size = other.bits == own.bits and other.kind not in ("block", "scale")
        if same_size and other.name != own.name:
            values = decode(q.codes, other.name).astype(np.float32)
            with np.errstate(all="ignore"):
                yield (
                    "codes read as another format",
                    f"{own.name} codes read as {other.name}",
                    values * by,
                )
    top = (1 << own.bits) - 1
    half = 1 << (own.bits - 1)
    yield "signs flipped", "every value has the other sign", -q.dequantize()
    yield "signs lost", "the sign bit is ignored", np.abs(q.dequantize())
    if own.bits == 4:
        yield (
            "code table reversed",
            "the table of codes runs the other way",
            decoded(q, top - q.codes),
        )
        yield (
            "code table reversed",
            "the halves of the table of codes change places",
            decoded(q, q.codes ^ half),
        )
        yield (
            "codes of a byte swapped",
            "the two 4-bit codes of a byte change places",
            decoded(q, _pairs_swapped(q.codes, 1)),
        )
    if own.kind == "int":
        for step in (1, -1, half):
            yield (
                "zero point wrong",
                f"every code is off by {step}",
                _decoded_signed(q, step),
            )


def _decoded_signed(q: Quantized, step: int) -> Array:
    """Codes moved by a step, with and without the range that codes have: clipped."""
    bits = FORMATS[q.element].bits
    top = 2 ** (bits - 1) - 1
    signed = q.codes.astype(np.int32)
    signed = np.where(signed > top, signed - 2**bits, signed)
    clipped = np.clip(signed + step, -top - 1, top).astype(np.float32)
    found: Array = clipped * q.expanded_scales()
    return found


def _pairs_swapped(codes: Array, axis: int) -> Array:
    length = codes.shape[axis]
    order = np.arange(length)
    order[: length - length % 2] ^= 1
    return np.take(codes, order, axis=axis)


_MODES = {
    "toward_zero": "truncated instead of rounded to nearest",
    "nearest_away": "ties away from zero instead of to even",
    "down": "rounded down instead of to nearest",
    "up": "rounded up instead of to nearest",
    "away": "rounded away from zero instead of to nearest",
}


def roundings(seen: Observation, q: Quantized) -> Iterator[Named]:
    """Right scales, codes rounded in another way."""
    weight = seen.full_weight
    for mode, words in _MODES.items():
        yield "rounding mode", f"weight {words}", again(q, weight, rounding=mode)
    by = q.expanded_scales()
    for name, dtype in (("bfloat16", ml_dtypes.bfloat16), ("float16", np.float16)):
        with np.errstate(all="ignore"):
            ratio = (weight / by).astype(dtype).astype(np.float32) * by
            yield (
                "rounded twice",
                f"weight divided by its scale is rounded to {name} first",
                again(q, ratio),
            )
            early = weight.astype(dtype).astype(np.float32)
        yield "rounded twice", f"weight rounded to {name} first", again(q, early)
    values = decode(q.codes, q.element)
    table = np.abs(FORMATS[q.element].decoded)
    finite = table[np.isfinite(table) & (table > 0)]
    if FORMATS[q.element].kind == "float" and finite.size:
        for exponent in sorted({FORMATS[q.element].emin, *range(-8, 0)}):
            small = 2.0**exponent
            if small > finite.min():
                flushed = np.where(np.abs(values) < small, 0, values)
                yield (
                    FLUSHED,
                    f"elements below 2**{exponent} are zero",
                    flushed.astype(np.float32) * by,
                )
