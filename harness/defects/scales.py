"""Defects of a weight's scales: computed, stored, indexed or applied wrongly."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import ml_dtypes
import numpy as np

from harness.defects.tensors import (
    grouped_along_k,
    per_channel,
    requantized,
    with_scales,
)
from harness.defects.types import Defect, Parameter, Severity, Site, Unfit
from harness.numerics import FORMATS, Quantized, find_format
from harness.numerics.swizzle import swizzle_scales
from harness.schemes.apply import quantize_weight

Array = np.ndarray[Any, np.dtype[Any]]
_Scales = Callable[[Site, Quantized], Array]


def _stored(change: _Scales) -> Callable[[Site, Quantized, float], Quantized]:
    """Other scales under the same codes."""

    def changed(site: Site, q: Quantized, strength: float) -> Quantized:  # noqa: ARG001
        return with_scales(q, change(site, q))

    return changed


def _along_k(q: Quantized) -> None:
    if not grouped_along_k(q):
        raise Unfit("one scale along the reduction")


def _ratio(site: Site, q: Quantized, strength: float) -> Quantized:  # noqa: ARG001
    return with_scales(q, q.scales * np.float32(1 + strength))


def _one(site: Site, q: Quantized) -> Array:  # noqa: ARG001
    return np.ones_like(q.scales)


def _reciprocal(site: Site, q: Quantized) -> Array:  # noqa: ARG001
    result: Array = 1 / q.scales
    return result


def _power_of_two(site: Site, q: Quantized) -> Array:  # noqa: ARG001
    if find_format(q.format).scale == "fp8_e8m0":
        raise Unfit("scales are powers of two")
    result: Array = np.exp2(np.ceil(np.log2(q.scales)))
    return result


def _no_tensor_scale(site: Site, q: Quantized, strength: float) -> Quantized:  # noqa: ARG001
    if q.global_scale == 1.0:
        raise Unfit("no scale of the whole tensor")
    return dataclasses.replace(q, global_scale=1.0)


def _others_tensor_scale(site: Site, q: Quantized, strength: float) -> Quantized:  # noqa: ARG001
    if q.global_scale == 1.0:
        raise Unfit("no scale of the whole tensor")
    if site.other is None:
        raise Unfit("no other operator has a weight of this shape")
    other = quantize_weight(site.other, site.scheme)
    return dataclasses.replace(q, global_scale=other.global_scale)


def _of_other(site: Site, q: Quantized) -> Array:  # noqa: ARG001
    if site.other is None:
        raise Unfit("no other operator has a weight of this shape")
    return quantize_weight(site.other, site.scheme).scales  # type: ignore[no-any-return]


def _rolled_along_k(site: Site, q: Quantized) -> Array:  # noqa: ARG001
    _along_k(q)
    return np.roll(q.scales, 1, axis=1)


def _rolled_along_n(site: Site, q: Quantized) -> Array:  # noqa: ARG001
    if not per_channel(q):
        raise Unfit("one scale for all output channels")
    return np.roll(q.scales, 1, axis=0)


def _first_of_all(site: Site, q: Quantized) -> Array:  # noqa: ARG001
    if q.scales.size < 2:
        raise Unfit("one scale in all")
    return np.full_like(q.scales, q.scales.reshape(-1)[0])


def _stuck(site: Site, q: Quantized) -> Array:  # noqa: ARG001
    """Of every four slices along the reduction the first one's scales."""
    _along_k(q)
    index = np.arange(q.scales.shape[1]) // 4 * 4
    found: Array = q.scales[:, index]
    return found


def _pairs(site: Site, q: Quantized) -> Array:  # noqa: ARG001
    if not per_channel(q):
        raise Unfit("one scale for all output channels")
    found: Array = q.scales[np.arange(q.scales.shape[0]) // 2 * 2]
    return found


def _transposed(site: Site, q: Quantized) -> Array:  # noqa: ARG001
    _along_k(q)
    if q.scales.ndim != 2 or not per_channel(q):
        raise Unfit("no grid of scales")
    found: Array = q.scales.T.reshape(q.scales.shape)
    return found


def _swizzled(site: Site, q: Quantized) -> Array:  # noqa: ARG001
    """Written in tiles of 128 x 4, read row by row."""
    _along_k(q)
    if q.scales.ndim != 2:
        raise Unfit("no grid of scales")
    index = np.arange(q.scales.size).reshape(q.scales.shape)
    # The swizzle moves bytes: the index travels as its four bytes.
    planes = [
        swizzle_scales(((index >> (8 * byte)) & 255).astype(np.uint8)).astype(np.int64)
        for byte in range(4)
    ]
    order = sum(plane << (8 * byte) for byte, plane in enumerate(planes))
    flat = q.scales.reshape(-1)
    found: Array = flat[order[: q.scales.size]].reshape(q.scales.shape)
    return found


def _second_shard(site: Site, q: Quantized) -> Array:  # noqa: ARG001
    """Only the first of two shards' scales was loaded."""
    if not per_channel(q):
        raise Unfit("one scale for all output channels")
    half = q.scales.shape[0] // 2
    scales: Array = q.scales.copy()
    scales[half : 2 * half] = scales[:half]
    return scales


def _one_corrupt(site: Site, q: Quantized, strength: float) -> Quantized:
    """A few scales of the wrong magnitude, as a stray write leaves them."""
    scales = q.scales.copy().reshape(-1)
    count = max(1, round(strength * scales.size))
    hit = site.rng().choice(scales.size, size=count, replace=False)
    scales[hit] *= 4
    return with_scales(q, scales.reshape(q.scales.shape))


def _as_numbers(site: Site, q: Quantized, strength: float) -> Array:  # noqa: ARG001
    """The byte of a scale is taken for its value."""
    stored = find_format(q.format).scale
    if not stored:
        raise Unfit("scales are float32")
    raw = np.asarray(q.scale_codes).astype(np.float32)
    scales = with_scales(q, raw)
    return scales.dequantize()  # type: ignore[no-any-return]


def _flushed(site: Site, q: Quantized) -> Array:  # noqa: ARG001
    if find_format(q.format).scale != "fp8_e4m3":
        raise Unfit("scales are not E4M3")
    return np.where(q.scales < 2.0**-6, 0, q.scales)


def _zero_blocks(site: Site, q: Quantized, strength: float) -> Array:  # noqa: ARG001
    """Blocks of zeros divide zero by zero."""
    weight = q.dequantize()
    empty = q.grid.expand(np.asarray(q.scales)) * 0
    amax = _group_amax(q, np.asarray(site.operator.weight, np.float32))
    hit = q.grid.expand((amax == 0).astype(np.float32)) > 0
    result: Array = np.where(hit, np.nan, weight + empty)
    return result


def _group_amax(q: Quantized, weight: Array, *, absolute: bool = True) -> Array:
    """float32 largest value of each scale's group, in the scales' shape."""
    view = q.grid.to_view(np.abs(weight) if absolute else weight)
    outer, length, inner = view.shape
    tall, wide = q.grid.tall, q.grid.wide
    pad = [(0, 0), (0, -length % tall), (0, -inner % wide)]
    padded = np.pad(view, pad, constant_values=-np.inf)
    blocks = padded.reshape(outer, padded.shape[1] // tall, tall, -1, wide)
    result: Array = q.grid.scales_from_view(blocks.max(axis=(2, 4)))
    return result


def _without_abs(site: Site, q: Quantized, strength: float) -> Quantized:  # noqa: ARG001
    weight = np.asarray(site.operator.weight, np.float32)
    signed = _group_amax(q, weight, absolute=False)
    whole = _group_amax(q, weight)
    share = np.where(
        (signed > 0) & (whole > 0), signed / np.where(whole > 0, whole, 1), 1
    )
    scales = q.scales * share
    if find_format(q.format).scale == "fp8_e8m0":
        scales = np.exp2(np.floor(np.log2(scales)))
    return requantized(q, weight, scales)


def _largest_value(site: Site, q: Quantized, strength: float) -> Quantized:  # noqa: ARG001
    """448 taken for 240: the scale's divisor is another hardware's."""
    if q.element != "fp8_e4m3" or find_format(q.format).scale:
        raise Unfit("scales are not amax / 448")
    return requantized(q, site.operator.weight, q.scales * np.float32(448 / 240))


def _in_bf16(site: Site, q: Quantized, strength: float) -> Quantized:  # noqa: ARG001
    if find_format(q.format).scale:
        raise Unfit("scales are not float32")
    scales = q.scales.astype(ml_dtypes.bfloat16).astype(np.float32)
    return requantized(q, site.operator.weight, scales)


def _exponent(delta: int) -> Callable[[Site, Quantized, float], Quantized]:
    """Block exponents that are off, codes made with them: clipped, or bits lost."""

    def changed(site: Site, q: Quantized, strength: float) -> Quantized:  # noqa: ARG001
        if find_format(q.format).scale != "fp8_e8m0":
            raise Unfit("scales are not powers of two")
        return requantized(q, site.operator.weight, q.scales * 2.0**delta)

    return changed


def _amax_over_six(site: Site, q: Quantized, strength: float) -> Quantized:  # noqa: ARG001
    if find_format(q.format).scale != "fp8_e8m0":
        raise Unfit("scales are not powers of two")
    amax = _group_amax(q, np.asarray(site.operator.weight, np.float32))
    largest = FORMATS[q.element].max
    wanted = np.where(amax > 0, amax / largest, q.scales)
    return requantized(q, site.operator.weight, np.exp2(np.floor(np.log2(wanted))))


def _defect(  # noqa: PLR0917 - a table's columns
    name: str,
    summary: str,
    severity: Severity,
    links: str,
    change: Callable[..., Any],
    parameter: Parameter | None = None,
) -> Defect:
    found = Defect(
        name=name,
        summary=summary,
        place="weight",
        severity=severity,
        links=tuple(links.split()),
        change=change,
    )
    if parameter is None:
        return found
    return dataclasses.replace(found, parameter=parameter)


#: The scale of the reduction is off by a factor.
_ERROR = Parameter(name="relative error of the scale", low=0.002, catalogue=0.1, high=1)
_SOME = Parameter(name="share of scales", low=0.001, catalogue=0.01, high=0.5)

SCALES = (
    _defect(
        "scale_ratio",
        "every scale is off by the same factor",
        "visible",
        "vllm-project/vllm#48016 ROCm/TransformerEngine#485",
        _ratio,
        _ERROR,
    ),
    _defect(
        "scale_missing",
        "the scales were not loaded: 1 stands for all",
        "catastrophic",
        "Lightricks/LTX-2#172 modelscope/mcore-bridge#183",
        _stored(_one),
    ),
    _defect(
        "scale_reciprocal",
        "scales are divided by instead of multiplied with",
        "catastrophic",
        "modular/modular#6600",
        _stored(_reciprocal),
    ),
    _defect(
        "scale_power_of_two",
        "scales rounded up to powers of two, codes left as they were",
        "catastrophic",
        "huggingface/transformers#47030",
        _stored(_power_of_two),
    ),
    _defect(
        "tensor_scale_missing",
        "the scale of the whole tensor was not loaded",
        "catastrophic",
        "ggml-org/llama.cpp#23629 vllm-project/vllm#33461",
        _no_tensor_scale,
    ),
    _defect(
        "tensor_scale_of_other",
        "the whole tensor's scale is another operator's",
        "visible",
        "vllm-project/llm-compressor#1869 vllm-project/vllm#47515",
        _others_tensor_scale,
    ),
    _defect(
        "scales_of_other",
        "the scales are another operator's",
        "catastrophic",
        "pytorch/ao#3835",
        _stored(_of_other),
    ),
    _defect(
        "scales_shifted_along_k",
        "block scales are those of the block before",
        "visible",
        "deepseek-ai/DeepGEMM#323 ml-explore/mlx#4201",
        _stored(_rolled_along_k),
    ),
    _defect(
        "scales_shifted_along_n",
        "scales are those of the output channel before",
        "visible",
        "flashinfer-ai/flashinfer#4087",
        _stored(_rolled_along_n),
    ),
    _defect(
        "scales_all_the_first",
        "the first scale stands for all",
        "visible",
        "vllm-project/vllm#38197 vllm-project/compressed-tensors#393",
        _stored(_first_of_all),
    ),
    _defect(
        "scales_stuck_in_slices",
        "of every four blocks the first one's scale",
        "silent",
        "mlc-ai/TIRx-kernels#5",
        _stored(_stuck),
    ),
    _defect(
        "scales_of_pairs",
        "one channel's scale for two neighbours",
        "silent",
        "deepseek-ai/DeepGEMM#362",
        _stored(_pairs),
    ),
    _defect(
        "scales_transposed",
        "the grid of scales is read in the other order",
        "visible",
        "ROCm/aiter#4506 iree-org/iree#22104",
        _stored(_transposed),
    ),
    _defect(
        "scales_swizzled",
        "scales written in tiles of 128 x 4, read row by row",
        "catastrophic",
        "flashinfer-ai/flashinfer#4087 ROCm/aiter#2900",
        _stored(_swizzled),
    ),
    _defect(
        "second_shard_not_loaded",
        "the second half of the channels has the first half's scales",
        "catastrophic",
        "vllm-project/vllm#38197",
        _stored(_second_shard),
    ),
    _defect(
        "some_scales_corrupt",
        "a few scales are four times too large",
        "silent",
        "pytorch/ao#4278 flashinfer-ai/flashinfer#4396",
        _one_corrupt,
        _SOME,
    ),
    _defect(
        "scale_bytes_as_numbers",
        "the stored byte of a scale is taken for its value",
        "catastrophic",
        "ml-explore/mlx#3762 vllm-project/vllm#47315",
        _as_numbers,
    ),
    _defect(
        "subnormal_scales_flushed",
        "block scales below the smallest normal number are zero",
        "conditional",
        "flashinfer-ai/flashinfer#3932 vllm-project/vllm#34577",
        _stored(_flushed),
    ),
    _defect(
        "zero_blocks_are_nan",
        "blocks of zeros are divided by zero",
        "conditional",
        "huggingface/kernels-community#681 pytorch/ao#4713",
        _zero_blocks,
    ),
    _defect(
        "amax_without_abs",
        "the scale is made from the largest value, not the largest magnitude",
        "visible",
        "NVIDIA/TransformerEngine#534 vllm-project/llm-compressor#1788",
        _without_abs,
    ),
    _defect(
        "largest_value_of_other_format",
        "scales made for a largest value of 240 instead of 448",
        "silent",
        "sgl-project/sglang#30900 ROCm/aiter#640",
        _largest_value,
    ),
    _defect(
        "scale_in_bf16",
        "scales computed in bfloat16",
        "silent",
        "pytorch/ao#4326 NVIDIA/Model-Optimizer#381",
        _in_bf16,
    ),
    _defect(
        "exponent_too_small",
        "block exponents one too small: the largest values saturate",
        "visible",
        "ROCm/FlyDSL#590 vllm-project/vllm#43557",
        _exponent(-1),
    ),
    _defect(
        "exponent_too_large",
        "block exponents one too large: the last bit is lost",
        "silent",
        "vllm-project/compressed-tensors#541",
        _exponent(1),
    ),
    _defect(
        "exponent_from_largest",
        "block exponents from log2(amax / largest value)",
        "visible",
        "vllm-project/vllm#43557",
        _amax_over_six,
    ),
)
