"""Defects of an operator's input: rounded, scaled or laid out otherwise."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import ml_dtypes
import numpy as np

from harness.defects.tensors import input_scheme, requantized, with_codes, with_scales
from harness.defects.types import (
    ALWAYS,
    TIES,
    Defect,
    Parameter,
    Severity,
    Site,
    Trigger,
    Unfit,
)
from harness.numerics import FORMATS, Quantized, decode, find_format, quantize
from harness.schemes.apply import activation_axis, plan_one, quantize_activation
from harness.schemes.types import TensorScheme

Array = np.ndarray[Any, np.dtype[Any]]
_Change = Callable[[Site, Array, Quantized], Any]


def _entry(change: _Change) -> Callable[[Site, Array, float], Array]:
    """A change of the quantized input, as a change of the decoded one."""

    def changed(site: Site, x: Array, strength: float) -> Array:  # noqa: ARG001
        input_scheme(site)
        found = change(site, x, quantize_activation(site.operator, x, site.scheme))
        wrong: Array = found.dequantize() if isinstance(found, Quantized) else found
        return wrong

    return changed


def _not_quantized(site: Site, x: Array, q: Quantized) -> Array:  # noqa: ARG001
    return x


def _ratio(site: Site, x: Array, strength: float) -> Array:
    input_scheme(site)
    decoded: Array = quantize_activation(site.operator, x, site.scheme).dequantize()
    return decoded * np.float32(1 + strength)


def _calibration(site: Site, x: Array, strength: float) -> Array:
    """The calibrated largest value is too small, so that inputs saturate."""
    tensor = input_scheme(site)
    if tensor.dynamic:
        raise Unfit("scales are not calibrated")
    smaller = {
        name: value * strength for name, value in site.scheme.calibration.items()
    }
    scheme = dataclasses.replace(site.scheme, calibration=smaller)
    return quantize_activation(site.operator, x, scheme).dequantize()  # type: ignore[no-any-return]


def _unclamped(site: Site, x: Array, strength: float) -> Array:
    """Values beyond the calibrated range become NaN instead of the largest value."""
    tensor = input_scheme(site)
    fmt = find_format(tensor.format)
    if tensor.dynamic or fmt.kind in {"block", "int"}:
        raise Unfit("nothing is cast with a calibrated scale to a float format")
    smaller = {
        name: value * strength for name, value in site.scheme.calibration.items()
    }
    scheme = dataclasses.replace(site.scheme, calibration=smaller)
    q = quantize_activation(site.operator, x, scheme)
    return requantized(q, x, overflow="nan").dequantize()  # type: ignore[no-any-return]


def _rounded(mode: str) -> _Change:
    def change(site: Site, x: Array, q: Quantized) -> Quantized:  # noqa: ARG001
        return requantized(q, x, rounding=mode)

    return change


def _twice(site: Site, x: Array, q: Quantized) -> Quantized:  # noqa: ARG001
    by = q.expanded_scales()
    ratio = (x / by).astype(ml_dtypes.bfloat16).astype(np.float32)
    return requantized(q, ratio * by)


def _flushed(site: Site, x: Array, q: Quantized) -> Array:  # noqa: ARG001
    if q.element != "fp8_e4m3":
        raise Unfit(f"{q.element} is not E4M3")
    values = decode(q.codes, q.element)
    kept = np.where(np.abs(values) < 2.0**-6, 0, values).astype(np.float32)
    result: Array = kept * q.expanded_scales()
    return result


def _e5m2(site: Site, x: Array, q: Quantized) -> Array:  # noqa: ARG001
    if q.element != "fp8_e4m3":
        raise Unfit(f"{q.element} is not E4M3")
    fmt = {"fp8_e4m3": "fp8_e5m2"}.get(q.format, "mxfp8_e5m2")
    return quantize(x, fmt, axis=q.axis, block=q.block or None).dequantize()  # type: ignore[no-any-return]


def _largest(site: Site, x: Array, q: Quantized) -> Quantized:  # noqa: ARG001
    if q.element != "fp8_e4m3" or find_format(q.format).scale:
        raise Unfit("scales are not amax / 448")
    return requantized(q, x, q.scales * np.float32(448 / 240))


def _dynamic(site: Site) -> TensorScheme:
    tensor = input_scheme(site)
    if not tensor.dynamic or find_format(tensor.format).kind == "block":
        raise Unfit("scales are not computed a row at a time")
    return tensor


def _whole(site: Site, x: Array, q: Quantized) -> Quantized:
    """One scale for the whole tensor, batch mates and padding included."""
    tensor = _dynamic(site)
    if q.scales.size < 2:
        raise Unfit("one scale in all")
    return quantize(x, tensor.format, axis=None)


def _first(site: Site, x: Array, q: Quantized) -> Quantized:
    """The first row's scale for all of them."""
    _dynamic(site)
    return requantized(q, x, np.full_like(q.scales, q.scales.reshape(-1)[0]))


def _signed(site: Site, x: Array, q: Quantized) -> Quantized:
    """Amax without the magnitude: rows whose largest magnitude is negative saturate."""
    tensor = _dynamic(site)
    axis = activation_axis(site.operator, tensor)
    top = np.asarray(x.max(axis=axis, keepdims=True), np.float32)
    fmt = find_format(tensor.format)
    scales = np.where(top > 0, top / np.float32(fmt.max), q.scales)
    return requantized(q, x, scales.reshape(q.scales.shape))


def _shifted(site: Site, x: Array, q: Quantized) -> Quantized:  # noqa: ARG001
    """Decoded with the scales of the block before."""
    if find_format(q.format).kind != "block" or q.scales.shape[int(q.axis)] < 2:  # type: ignore[arg-type]
        raise Unfit("one scale along the reduction")
    return with_scales(q, np.roll(q.scales, 1, axis=int(q.axis)))  # type: ignore[arg-type]


def _rows_shifted(site: Site, x: Array, q: Quantized) -> Quantized:  # noqa: ARG001
    _dynamic(site)
    if q.scales.ndim < 2 or q.scales.shape[-2] < 2:
        raise Unfit("one row")
    return with_scales(q, np.roll(q.scales, 1, axis=-2))


def _exponent(site: Site, x: Array, q: Quantized) -> Quantized:  # noqa: ARG001
    if find_format(q.format).scale != "fp8_e8m0":
        raise Unfit("scales are not powers of two")
    return requantized(q, x, q.scales / 2)


def _wide(site: Site, x: Array, q: Quantized) -> Quantized:
    tensor = input_scheme(site)
    if find_format(q.format).kind != "block":
        raise Unfit("no blocks along the reduction")
    assert isinstance(q.block, int)  # sanity check
    wider = dataclasses.replace(tensor, block=2 * q.block)
    scheme = dataclasses.replace(site.scheme, activations=wider)
    return quantize_activation(site.operator, x, scheme)


def _swapped(site: Site, x: Array, q: Quantized) -> Quantized:
    axis = -1 if site.operator.kind == "linear" else 1
    length = x.shape[axis]
    if FORMATS[q.element].bits != 4 or length < 2:
        raise Unfit(f"elements are {q.element}, not 4 bits")
    order = np.arange(length)
    order[: length - length % 2] ^= 1
    return with_codes(q, np.take(q.codes, order, axis=axis))


def _also_quantized(site: Site, x: Array, strength: float) -> Array:  # noqa: ARG001
    """A weight-only scheme whose kernel quantizes the input to INT8 as well."""
    if site.scheme.activations is not None:
        raise Unfit("activations are quantized")
    axis: Any = -1 if site.operator.kind == "linear" else tuple(range(1, x.ndim))
    return quantize(x, "int8", axis=axis).dequantize()  # type: ignore[no-any-return]


def _overflow(site: Site, x: Array, strength: float) -> Array:
    """Inputs beyond a limit overflow on the way to the kernel."""
    limit = strength * float(np.abs(x).max(initial=0.0))
    right = x
    if plan_one(site.scheme, site.operator).activations:
        right = quantize_activation(site.operator, x, site.scheme).dequantize()
    found: Array = np.where(np.abs(x) > limit, np.copysign(np.inf, x), right)
    return found.astype(np.float32)


def _defect(  # noqa: PLR0917 - a table's columns
    name: str,
    summary: str,
    severity: Severity,
    links: str,
    change: Callable[..., Any],
    parameter: Parameter | None = None,
    trigger: Trigger = ALWAYS,
    tolerated: float = 0.0,
) -> Defect:
    found = Defect(
        name=name,
        summary=summary,
        place="input",
        severity=severity,
        links=tuple(links.split()),
        change=change,
        trigger=trigger,
        tolerated=tolerated,
    )
    if parameter is None:
        return found
    return dataclasses.replace(found, parameter=parameter)


_SMALLER = Parameter(
    name="calibrated range / true range", low=0.95, catalogue=0.25, high=0.05, none=1.0
)

INPUTS = (
    _defect(
        "input_left_unquantized",
        "the input is not quantized",
        "silent",
        "verl-project/verl#7918",
        _entry(_not_quantized),
    ),
    _defect(
        "input_also_quantized",
        "a weight-only scheme whose kernel quantizes the input too",
        "silent",
        "vllm-project/vllm#31609",
        _also_quantized,
    ),
    _defect(
        "input_scale_ratio",
        "the input's scale is off by a factor on the way back",
        "visible",
        "flashinfer-ai/flashinfer#1254 NVIDIA/TensorRT-LLM#3675",
        _ratio,
        Parameter(
            name="relative error of the scale", low=0.002, catalogue=0.1, high=1.0
        ),
    ),
    _defect(
        "input_range_too_small",
        "calibrated from inputs that are too small: larger ones saturate",
        "visible",
        "vllm-project/llm-compressor#1864 vllm-project/vllm#4614",
        _calibration,
        _SMALLER,
    ),
    _defect(
        "input_not_clamped",
        "inputs beyond the calibrated range become NaN",
        "conditional",
        "vllm-project/vllm#4614 flashinfer-ai/flashinfer#4056",
        _unclamped,
        _SMALLER,
    ),
    _defect(
        "input_rounded_toward_zero",
        "truncation instead of rounding to nearest",
        "silent",
        "microsoft/onnxruntime#18576 flashinfer-ai/flashinfer#4019",
        _entry(_rounded("toward_zero")),
    ),
    _defect(
        "input_rounded_ties_away",
        "ties go away from zero instead of to even",
        "silent",
        "ROCm/aiter#2247 openvinotoolkit/openvino#38158",
        _entry(_rounded("nearest_away")),
        tolerated=TIES,
    ),
    _defect(
        "input_rounded_twice",
        "rounded to bfloat16 on the way to the codes",
        "silent",
        "flashinfer-ai/flashinfer#4160 NVIDIA/TensorRT-LLM#14464",
        _entry(_twice),
    ),
    _defect(
        "input_subnormals_flushed",
        "elements below the smallest normal number become zero",
        "silent",
        "vllm-project/vllm#55673",
        _entry(_flushed),
    ),
    _defect(
        "input_in_e5m2",
        "E5M2 where E4M3 was asked for",
        "visible",
        "vllm-project/vllm#54341 vllm-project/vllm#31609",
        _entry(_e5m2),
    ),
    _defect(
        "input_largest_value_of_other_format",
        "scales made for a largest value of 240 instead of 448",
        "silent",
        "ROCm/aiter#4070 sgl-project/sglang#30900",
        _entry(_largest),
    ),
    _defect(
        "input_one_scale_for_all",
        "one scale for the whole tensor instead of one a row",
        "silent",
        "sgl-project/sglang#9806 huggingface/transformers#32868",
        _entry(_whole),
    ),
    _defect(
        "input_scale_of_first_row",
        "the first row's scale for all rows",
        "visible",
        "vllm-project/compressed-tensors#393",
        _entry(_first),
    ),
    _defect(
        "input_amax_without_abs",
        "the scale is made from the largest value, not the largest magnitude",
        "visible",
        "NVIDIA/TransformerEngine#534",
        _entry(_signed),
    ),
    _defect(
        "input_scales_shifted_along_k",
        "block scales are those of the block before",
        "visible",
        "flashinfer-ai/flashinfer#3838",
        _entry(_shifted),
    ),
    _defect(
        "input_scales_shifted_along_rows",
        "every row is decoded with the scale of the row before",
        "visible",
        "vllm-project/vllm#49716",
        _entry(_rows_shifted),
    ),
    _defect(
        "input_exponent_too_small",
        "block exponents one too small: the largest values saturate",
        "visible",
        "ROCm/FlyDSL#590",
        _entry(_exponent),
    ),
    _defect(
        "input_blocks_too_wide",
        "the largest value is taken over two blocks",
        "silent",
        "ml-explore/mlx#3844",
        _entry(_wide),
    ),
    _defect(
        "input_nibbles_swapped",
        "the two 4-bit codes of every byte change places",
        "catastrophic",
        "openvinotoolkit/openvino#32144",
        _entry(_swapped),
    ),
    _defect(
        "input_overflows",
        "the largest inputs overflow to Inf on the way to the kernel",
        "conditional",
        "ggml-org/llama.cpp#26223",
        _overflow,
        Parameter(
            name="limit / largest input", low=0.99, catalogue=0.5, high=0.1, none=1.0
        ),
    ),
    _defect(
        "input_stale_scale",
        "later calls use the first row's scale for all rows",
        "conditional",
        "NVIDIA/TransformerEngine#123 flashinfer-ai/flashinfer#4014",
        _entry(_first),
        trigger=Trigger(calls=1),
    ),
    _defect(
        "input_batch_mates_in_amax",
        "with more than one entry in the batch, all share one scale",
        "conditional",
        "sgl-project/sglang#9806 microsoft/onnxruntime#8625",
        _entry(_whole),
        trigger=Trigger(batch=1),
    ),
)
