"""Quantizing as ggml's reference code does, which differs from the formats' own rules.

Q8_0 multiplies with the float32 reciprocal and rounds halves away from zero; Q4_0 maps
the value of largest magnitude to -8 and truncates after adding 8.5; both use the scale
before it is rounded to float16. MXFP4 is the floor rule with halves to the smaller
code. ggml has no reference for NVFP4 in Python: it follows our rule without tensor
scale. Q4_K is in `gguf_search`.

Q8_K, which inputs of Q4_K weights become, maps the first value of largest magnitude to
-127 and rounds halves to even; its scale, the reciprocal of -127 over that value, stays
float32. ggml's kernels for four rows at once may take a later value of the same
magnitude, which turns the signs of scale and codes and no value.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from harness.errors import NumericsError
from harness.numerics.arrays import Array, as_numpy, floating, widened
from harness.numerics.formats import FORMATS
from harness.numerics.layouts.gguf import GGUF_TYPES, INPUT_TYPES
from harness.numerics.layouts.gguf_search import search_q4k
from harness.numerics.quantize import quantize
from harness.numerics.quantized import Quantized
from harness.numerics.scales import mx_scales


def quantize_gguf(x: Any, kind: str, *, nudge: float = 1.0) -> Quantized:
    """A tensor in a type of ggml, ready for `write_gguf` where files hold it.

    Args:
        x: finite floating point values, rows of whole blocks along the last axis.
        kind: a name of `GGUF_TYPES` or `INPUT_TYPES`.
        nudge: of Q8_0, Q4_0 and Q8_K, a factor of each value after its block's scale
            was found: what another order of the same roundings makes of it.

    Raises:
        NumericsError: unknown type, not finite, or rows that are not whole blocks.
    """
    types = {**GGUF_TYPES, **INPUT_TYPES}
    if kind not in types:
        raise NumericsError(f"GGUF type {kind!r}, but known are {', '.join(types)}")
    values = widened(floating(as_numpy(x)[0])).astype(np.float32, copy=False)
    size = types[kind].block
    if values.ndim == 0 or values.shape[-1] % size:
        raise NumericsError(f"shape={values.shape}, but {kind} has blocks of {size}")
    if not np.isfinite(values).all():
        raise NumericsError(f"{kind} holds no NaN or Inf; the tensor does")
    if kind == "NVFP4":
        return quantize(values, "nvfp4", rule="no_global")
    if kind == "Q4_K":
        return search_q4k(values)
    blocks = values.reshape(*values.shape[:-1], -1, size)
    if kind == "MXFP4":
        codes, scales = _mxfp4(blocks)
    else:
        rule = {"Q8_0": _q8_0, "Q4_0": _q4_0, "Q8_K": _q8_k}[kind]
        codes, scales = rule(blocks, np.float32(nudge))
    return Quantized(
        codes=codes.astype(np.uint8).reshape(values.shape),
        scales=scales.astype(np.float32).reshape(*values.shape[:-1], -1),
        global_scale=1.0,
        format=types[kind].format,
        axis=values.ndim - 1,
        block=size,
        shape=values.shape,
        rule=f"gguf {kind}",
    )


def _inverse(d: Array) -> Array:
    with np.errstate(divide="ignore", over="ignore"):
        inverse: Array = np.where(d == 0, np.float32(0), np.float32(1) / d)
    return inverse


def _q8_0(blocks: Array, nudge: np.float32) -> tuple[Array, Array]:
    d = np.abs(blocks).max(axis=-1, keepdims=True) / np.float32(127)
    scaled = blocks * (_inverse(d) * nudge)
    magnitude = np.abs(scaled)
    whole = np.floor(magnitude)
    whole += np.floor(2 * (magnitude - whole))
    codes = np.copysign(whole, scaled).astype(np.int8).view(np.uint8)
    return codes, d.astype(np.float16)


def _q4_0(blocks: Array, nudge: np.float32) -> tuple[Array, Array]:
    at = np.abs(blocks).argmax(axis=-1, keepdims=True)
    d = np.take_along_axis(blocks, at, axis=-1) / np.float32(-8)
    codes = np.trunc(blocks * (_inverse(d) * nudge) + np.float32(8.5)).astype(np.uint8)
    return (np.clip(codes, 0, 15) - 8) & 15, d.astype(np.float16)


def _q8_k(blocks: Array, nudge: np.float32) -> tuple[Array, Array]:
    at = np.abs(blocks).argmax(axis=-1, keepdims=True)
    largest = np.take_along_axis(blocks, at, axis=-1)
    with np.errstate(divide="ignore", over="ignore"):
        inverse = np.float32(-127) / largest
    # Of zeros, and of numbers so small that their reciprocal is none, nothing is left.
    inverse = np.where(np.isfinite(inverse), inverse, np.float32(0))
    codes = np.rint(blocks * (inverse * nudge)).astype(np.int8).view(np.uint8)
    return codes, _inverse(inverse)


def _mxfp4(blocks: Array) -> tuple[Array, Array]:
    element = FORMATS["fp4_e2m1"]
    amax = np.abs(blocks).max(axis=-1, keepdims=True)
    scales = mx_scales(element, amax, "floor")
    magnitude = np.abs(blocks)
    table = element.decoded[:8]
    # The first of the nearest codes wins, so a half goes to the smaller magnitude.
    middles = (table[1:] + table[:-1]) / 2 * scales[..., None]
    codes = (magnitude[..., None] > middles).sum(axis=-1)
    negative = (blocks < 0) & (codes > 0)
    return codes | (negative << 3), scales
