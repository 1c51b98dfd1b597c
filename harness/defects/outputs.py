"""Defects of what an operator gives: bias, tails, precision, and when they show."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import ml_dtypes
import numpy as np

from harness.defects.types import (
    ALWAYS,
    SHARE,
    Call,
    Defect,
    Parameter,
    Severity,
    Site,
    Trigger,
    Unfit,
)
from harness.schemes.linear_algebra import add_bias, product

Array = np.ndarray[Any, np.dtype[Any]]


def _bias(site: Site, y: Array) -> Array:
    """The bias as it is added to an output.

    Raises:
        Unfit: there is none.
    """
    if site.operator.bias is None or not np.any(site.operator.bias):
        raise Unfit("no bias")
    zero: Array = np.zeros_like(y)
    return add_bias(site.operator, zero)


def _axis(site: Site) -> int:
    return -1 if site.operator.kind == "linear" else 1


def _without_bias(site: Site, call: Call, strength: float) -> Array:  # noqa: ARG001
    return call.y - _bias(site, call.y)


def _bias_twice(site: Site, call: Call, strength: float) -> Array:  # noqa: ARG001
    return call.y + _bias(site, call.y)


def _bias_shifted(site: Site, call: Call, strength: float) -> Array:  # noqa: ARG001
    bias = _bias(site, call.y)
    return call.y - bias + np.roll(bias, 1, axis=_axis(site))


def _zeros(site: Site, call: Call, strength: float) -> Array:  # noqa: ARG001
    return np.zeros_like(call.y)


def _gain(site: Site, call: Call, strength: float) -> Array:
    bias = np.float32(0) if site.operator.bias is None else _bias_or_zero(site, call.y)
    return (call.y - bias) * np.float32(1 + strength) + bias


def _bias_or_zero(site: Site, y: Array) -> Array:
    zero: Array = np.zeros_like(y)
    return add_bias(site.operator, zero)


def _stored_in(dtype: Any) -> Callable[[Site, Call, float], Array]:
    def change(site: Site, call: Call, strength: float) -> Array:  # noqa: ARG001
        return call.y.astype(dtype).astype(np.float32)

    return change


def _accumulated(site: Site, call: Call, strength: float) -> Array:
    """The running sum is cut to a few bits of mantissa every 32 products."""
    operator = site.operator
    if operator.kind != "linear" or operator.reduction < 64:
        raise Unfit("fewer than 64 products, or a convolution")
    keep = np.uint32(0xFFFFFFFF << (23 - round(strength)) & 0xFFFFFFFF)
    total = np.zeros_like(call.y)
    for start in range(0, operator.reduction, 32):
        part = slice(start, start + 32)
        total = total + call.x[..., part] @ call.weight[:, part].T
        total = (total.view(np.uint32) & keep).view(np.float32)
    return add_bias(operator, total)


def _tail_channels(site: Site, call: Call, strength: float) -> Array:
    y = np.moveaxis(call.y.copy(), _axis(site), 0)
    count = min(round(strength), max(1, y.shape[0] - 1))
    y[y.shape[0] - count :] = 0
    return np.moveaxis(y, 0, _axis(site))


def _tail_rows(site: Site, call: Call, strength: float) -> Array:
    """The rows that do not fill a tile are never written."""
    axis = -2 if site.operator.kind == "linear" else -1
    if call.y.ndim < 2:
        raise Unfit("one row")
    y = np.moveaxis(call.y.copy(), axis, 0)
    rest = y.shape[0] % round(strength)
    y[y.shape[0] - rest :] = 0
    return np.moveaxis(y, 0, axis)


def _rows_shifted(site: Site, call: Call, strength: float) -> Array:  # noqa: ARG001
    axis = -2 if site.operator.kind == "linear" else -1
    if call.y.ndim < 2 or call.y.shape[axis] < 2:
        raise Unfit("one row")
    result: Array = np.roll(call.y, 1, axis=axis)
    return result


def _clipped(site: Site, call: Call, strength: float) -> Array:  # noqa: ARG001
    limit = np.float32(strength * float(np.abs(call.y).max(initial=0.0)))
    result: Array = np.clip(call.y, -limit, limit)
    return result


def _rectified(site: Site, call: Call, strength: float) -> Array:  # noqa: ARG001
    result: Array = np.maximum(call.y, 0)
    return result


def _nan_row(site: Site, call: Call, strength: float) -> Array:  # noqa: ARG001
    y = call.y.copy()
    y.reshape(-1)[-1] = np.nan
    return y


def _noise(site: Site, call: Call, strength: float) -> Array:
    """Something else is read every time: memory that was never written."""
    rng = np.random.default_rng()
    noise: Array = np.asarray(rng.standard_normal(call.y.shape), np.float32)
    del site
    wrong: Array = call.y + np.float32(strength) * noise * np.abs(call.y)
    return wrong


def _again(site: Site, call: Call, strength: float) -> Array:
    """What the kernel reads past the end: the first columns once more."""
    operator = site.operator
    if operator.kind != "linear":
        raise Unfit("a convolution")
    count = min(round(strength), operator.reduction)
    extra = product(operator, call.x[..., :count], call.weight[:, :count])
    result: Array = call.y + extra.astype(np.float32)
    return result


def _defect(  # noqa: PLR0917 - a table's columns
    name: str,
    summary: str,
    severity: Severity,
    links: str,
    change: Callable[..., Any],
    parameter: Parameter = SHARE,
    trigger: Trigger = ALWAYS,
) -> Defect:
    return Defect(
        name=name,
        summary=summary,
        place="output",
        severity=severity,
        links=tuple(links.split()),
        change=change,
        parameter=parameter,
        trigger=trigger,
    )


_GAIN = Parameter(name="relative error of the gain", low=0.01, catalogue=0.5, high=1)

OUTPUTS = (
    _defect(
        "bias_missing",
        "the bias is not added",
        "visible",
        "sgl-project/sglang#15951 intel/neural-compressor#2040",
        _without_bias,
    ),
    _defect(
        "bias_twice",
        "the bias is added on every rank",
        "visible",
        "vllm-project/vllm#6327",
        _bias_twice,
    ),
    _defect(
        "bias_shifted",
        "the bias is added in another order of channels",
        "visible",
        "sgl-project/sglang#15951",
        _bias_shifted,
    ),
    _defect(
        "zeros",
        "the kernel refuses a configuration and returns zeros",
        "catastrophic",
        "microsoft/onnxruntime#28551 flashinfer-ai/flashinfer#3398",
        _zeros,
    ),
    _defect(
        "output_scale_ratio",
        "the output's scale is ignored or wrong",
        "visible",
        "pytorch/pytorch#190449 flashinfer-ai/flashinfer#4224",
        _gain,
        _GAIN,
    ),
    _defect(
        "summed_twice",
        "partial sums are added once more",
        "catastrophic",
        "sgl-project/sglang#37199",
        lambda site, call, _: _gain(site, call, 1.0),
    ),
    _defect(
        "output_in_bf16",
        "the output is rounded to bfloat16, though float32 was declared",
        "silent",
        "NVIDIA/TensorRT-LLM#14464",
        _stored_in(ml_dtypes.bfloat16),
    ),
    _defect(
        "output_in_fp16",
        "the output is rounded to FP16, though float32 was declared",
        "silent",
        "vllm-project/vllm#37135",
        _stored_in(np.float16),
    ),
    _defect(
        "accumulator_too_short",
        "the accumulator keeps a few bits of mantissa",
        "silent",
        "vllm-project/vllm#23813 deepseek-ai/DeepGEMM#37",
        _accumulated,
        Parameter(name="bits of mantissa", low=16, catalogue=13, high=8, none=23),
    ),
    _defect(
        "last_channels_zero",
        "the last output channels are never computed",
        "silent",
        "flashinfer-ai/flashinfer#2261 ml-explore/mlx#4251",
        _tail_channels,
        Parameter(name="channels", low=1, catalogue=16, high=64),
    ),
    _defect(
        "last_rows_zero",
        "rows that do not fill a tile are never written",
        "conditional",
        "vllm-project/vllm#57014 ROCm/aiter#4244",
        _tail_rows,
        Parameter(name="rows of a tile", low=2, catalogue=8, high=32, none=1),
    ),
    _defect(
        "rows_shifted",
        "every row gets its neighbour's result",
        "catastrophic",
        "vllm-project/vllm#49716",
        _rows_shifted,
    ),
    _defect(
        "reads_past_the_end",
        "the tail tile reads columns of another row",
        "silent",
        "ml-explore/mlx#3912 ml-explore/mlx#3854",
        _again,
        Parameter(name="columns", low=1, catalogue=16, high=64),
    ),
    _defect(
        "output_clipped",
        "large outputs saturate",
        "conditional",
        "flashinfer-ai/flashinfer#4224",
        _clipped,
        Parameter(
            name="limit / largest output", low=0.95, catalogue=0.5, high=0.1, none=1.0
        ),
    ),
    _defect(
        "activation_fused_twice",
        "a rectifier is applied that the model does not have",
        "catastrophic",
        "vllm-project/vllm#49473",
        _rectified,
    ),
    _defect(
        "last_value_nan",
        "the last value of every output is NaN",
        "catastrophic",
        "ROCm/aiter#2106",
        _nan_row,
    ),
    _defect(
        "reads_garbage",
        "memory that was never written takes part",
        "conditional",
        "vllm-project/vllm#48898 ROCm/aiter#3997",
        _noise,
        Parameter(name="relative size", low=1e-5, catalogue=0.01, high=1),
    ),
    *(
        _defect(
            f"wrong_{name}",
            f"the scale is wrong {when}",
            "conditional",
            links,
            _gain,
            dataclasses.replace(_GAIN),
            trigger,
        )
        for name, when, links, trigger in (
            (
                "after_first_batch_entry",
                "but for the first entry of a batch",
                "flashinfer-ai/flashinfer#3604 NVIDIA/TensorRT-LLM#17964",
                Trigger(batch=1),
            ),
            (
                "from_position_16",
                "from the 16th position on",
                "vllm-project/vllm#26042 NVIDIA/TensorRT-LLM#2699",
                Trigger(position=16),
            ),
            (
                "for_long_inputs",
                "for inputs of 32 positions and more",
                "ggml-org/llama.cpp#26223 sgl-project/sglang#36390",
                Trigger(length=32),
            ),
            (
                "for_large_rows",
                "for rows four times as large as the others",
                "vllm-project/vllm#4614 flashinfer-ai/flashinfer#4056",
                Trigger(magnitude=4.0),
            ),
            (
                "after_first_call",
                "from the second call on",
                "flashinfer-ai/flashinfer#4014 NVIDIA/TransformerEngine#2119",
                Trigger(calls=1),
            ),
            (
                "now_and_then",
                "in one call of four",
                "flashinfer-ai/flashinfer#4396 pytorch/ao#4278",
                Trigger(probability=0.25),
            ),
        )
    ),
)
