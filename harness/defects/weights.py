"""Defects of codes: a stored weight read, rounded or laid out otherwise."""

from __future__ import annotations

import dataclasses
from typing import Any

import ml_dtypes
import numpy as np

from harness.defects.tensors import (
    quantized_like,
    requantized,
    weight_scheme,
    with_codes,
)
from harness.defects.types import Defect, Parameter, Site, Unfit
from harness.numerics import FORMATS, Quantized, decode, find_format, quantize
from harness.schemes.apply import plan_one, quantize_weight

Array = np.ndarray[Any, np.dtype[Any]]
_FP8 = ("fp8_e4m3", "fp8_e5m2")


def _scaled(quantized: Quantized, values: Array) -> Array:
    """Decoded elements times their scales."""
    result: Array = values.astype(np.float32) * quantized.expanded_scales()
    return result


def _read_as(other: dict[str, str]) -> Any:
    def change(site: Site, q: Quantized, strength: float) -> Array:  # noqa: ARG001
        if q.element not in other:
            raise Unfit(f"elements are {q.element}")
        return _scaled(q, decode(q.codes, other[q.element]))

    return change


def _four_bit(q: Quantized) -> None:
    if FORMATS[q.element].bits != 4:
        raise Unfit(f"elements are {q.element}, not 4 bits")


def _swap_nibbles(site: Site, q: Quantized, strength: float) -> Quantized:  # noqa: ARG001
    _four_bit(q)
    length = q.codes.shape[1]
    order = np.arange(length)
    even = order[: length - length % 2]
    order[: even.size] = even ^ 1
    return with_codes(q, q.codes[:, order])


def _reverse_table(site: Site, q: Quantized, strength: float) -> Quantized:  # noqa: ARG001
    _four_bit(q)
    return with_codes(q, 15 - q.codes)


def _flip_signs(site: Site, q: Quantized, strength: float) -> Array:  # noqa: ARG001
    result: Array = -q.dequantize()
    return result


def _rounded(mode: str) -> Any:
    def change(site: Site, q: Quantized, strength: float) -> Quantized:  # noqa: ARG001
        weight_scheme(site)
        return requantized(q, site.operator.weight, rounding=mode)

    return change


def _round_twice(site: Site, q: Quantized, strength: float) -> Quantized:  # noqa: ARG001
    by = q.expanded_scales()
    ratio = (np.asarray(site.operator.weight, np.float32) / by).astype(
        ml_dtypes.bfloat16
    )
    return requantized(q, ratio.astype(np.float32) * by)


def _flush_subnormals(site: Site, q: Quantized, strength: float) -> Array:  # noqa: ARG001
    fmt = FORMATS[q.element]
    if q.element not in _FP8:
        raise Unfit(f"{q.element} is not FP8")
    smallest = 2.0 ** (-6 if fmt.name == "fp8_e4m3" else -14)
    values = decode(q.codes, q.element)
    return _scaled(q, np.where(np.abs(values) < smallest, 0, values))


def _off_by_one(site: Site, q: Quantized, strength: float) -> Quantized:
    """Codes next to the right ones, away from zero; the largest stay."""
    bits = FORMATS[q.element].bits
    hit = site.rng().random(q.codes.shape) < strength
    if FORMATS[q.element].kind == "int":
        signed = q.codes.astype(np.int16)
        top = 2 ** (bits - 1) - 1
        signed = np.where(signed > top, signed - 2**bits, signed)
        moved = np.clip(signed + np.where(hit, 1, 0), -top - 1, top) % 2**bits
        return with_codes(q, moved)
    sign, size = q.codes & (1 << (bits - 1)), q.codes & ((1 << (bits - 1)) - 1)
    top = _top(q.element)
    return with_codes(q, sign | np.where(hit & (size < top), size + 1, size))


def _top(element: str) -> int:
    """Code of the largest finite value."""
    table = FORMATS[element].decoded[: 1 << (FORMATS[element].bits - 1)]
    return int(np.nanargmax(np.where(np.isfinite(table), table, -1)))


def _negative_zero(site: Site, q: Quantized, strength: float) -> Array:  # noqa: ARG001
    """A tiny negative number is stored as -0, which FNUZ formats read as NaN."""
    if q.element not in _FP8:
        raise Unfit(f"{q.element} is not FP8")
    values = decode(q.codes, q.element).astype(np.float32)
    return _scaled(q, np.where(q.codes == 0x80, np.float32(np.nan), values))


def _zero_point(site: Site, q: Quantized, strength: float) -> Quantized:  # noqa: ARG001
    if FORMATS[q.element].kind != "int":
        raise Unfit(f"{q.element} has no zero point")
    return _off_by_one(site, q, 1.0)


def _interleave(site: Site, q: Quantized, strength: float) -> Quantized:  # noqa: ARG001
    """Shuffled for a kernel that does not unshuffle: even columns, then odd ones."""
    length = q.codes.shape[1]
    if length < 4:
        raise Unfit("fewer than four columns")
    order = np.concatenate([np.arange(0, length, 2), np.arange(1, length, 2)])
    return with_codes(q, q.codes[:, order])


def _permute(site: Site, q: Quantized, strength: float) -> Quantized:  # noqa: ARG001
    if q.codes.shape[1] < 4:
        raise Unfit("fewer than four columns")
    return with_codes(q, q.codes[:, site.rng().permutation(q.codes.shape[1])])


def _roll_rows(site: Site, q: Quantized, strength: float) -> Array:  # noqa: ARG001
    if q.codes.shape[0] < 2:
        raise Unfit("one output channel")
    result: Array = np.roll(q.dequantize(), 1, axis=0)
    return result


def _transpose(site: Site, q: Quantized, strength: float) -> Array:  # noqa: ARG001
    weight = q.dequantize()
    if weight.ndim != 2 or weight.shape[0] != weight.shape[1]:
        raise Unfit("the weight is not square")
    result: Array = weight.T.copy()
    return result


def _drop_columns(site: Site, q: Quantized, strength: float) -> Quantized:  # noqa: ARG001
    length = q.codes.shape[1]
    if length < 2:
        raise Unfit("one column is no tail")
    # All of them would be another defect: a weight of zeros.
    count = min(round(strength), length - 1)
    codes = q.codes.copy()
    codes[:, length - count :] = 0
    return with_codes(q, codes)


def _of_other(site: Site, q: Quantized, strength: float) -> Array:  # noqa: ARG001
    other = site.other
    if other is None:
        raise Unfit("no other operator has a weight of this shape")
    result: Array = quantize_weight(other, site.scheme).dequantize()
    return result


def _unquantized(site: Site, q: Quantized, strength: float) -> Array:  # noqa: ARG001
    if not plan_one(site.scheme, site.operator).weights:
        raise Unfit("the scheme leaves it alone")
    return np.asarray(site.operator.weight, np.float32)


#: What a coarser format stands in for a finer one.
_COARSER = {
    "fp8_e4m3": "fp8_e5m2",
    "int8": "int4",
    "mxfp8_e4m3": "mxfp8_e5m2",
    "mxfp4": "int4",
    "nvfp4": "int4",
    "int4": "fp4_e2m1",
}


def _coarser(site: Site, q: Quantized, strength: float) -> Array:  # noqa: ARG001
    if q.format not in _COARSER:
        raise Unfit(f"no other format stands in for {q.format}")
    other = find_format(_COARSER[q.format])
    return quantize(  # type: ignore[no-any-return]
        np.asarray(site.operator.weight, np.float32),
        other.name,
        axis=q.axis,
        block=q.block or None,
    ).dequantize()


def _wide_blocks(site: Site, q: Quantized, strength: float) -> Array:  # noqa: ARG001
    if not isinstance(q.block, int) or q.block <= 1 or q.scales.shape[1] < 2:
        raise Unfit("no blocks along the reduction")
    assert site.scheme.weights is not None  # sanity check
    wider = dataclasses.replace(site.scheme.weights, block=2 * q.block)
    scheme = dataclasses.replace(site.scheme, weights=wider)
    return quantize_weight(site.operator, scheme).dequantize()  # type: ignore[no-any-return]


def _perturbed(site: Site, q: Quantized, strength: float) -> Quantized:  # noqa: ARG001
    """Another copy of the weight was quantized."""
    weight = np.asarray(site.operator.weight, np.float32)
    noise = site.rng().standard_normal(weight.shape).astype(np.float32)
    return quantized_like(site, weight * (1 + np.float32(strength) * noise))


def _defect(name: str, summary: str, severity: str, links: str, change: Any) -> Defect:
    return Defect(
        name=name,
        summary=summary,
        place="weight",
        severity=severity,  # type: ignore[arg-type]
        links=tuple(links.split()),
        change=change,
    )


CODES = (
    _defect(
        "fn_read_as_fnuz",
        "FP8 bytes of one variant read as the other: half of every value, -0 is NaN",
        "catastrophic",
        "vllm-project/vllm#45562 ROCm/aiter#4051 sgl-project/sglang#2667",
        _read_as({"fp8_e4m3": "fp8_e4m3fnuz", "fp8_e5m2": "fp8_e5m2fnuz"}),
    ),
    _defect(
        "e4m3_read_as_e5m2",
        "bytes of one FP8 format read as the other",
        "catastrophic",
        "vllm-project/vllm#54341",
        _read_as({"fp8_e4m3": "fp8_e5m2", "fp8_e5m2": "fp8_e4m3"}),
    ),
    _defect(
        "negative_zero_is_nan",
        "tiny negative numbers become -0, which is read as NaN",
        "conditional",
        "onnx/onnx#5764",
        _negative_zero,
    ),
    _defect(
        "nibbles_swapped",
        "the two 4-bit codes of every byte change places",
        "catastrophic",
        "openvinotoolkit/openvino#32144",
        _swap_nibbles,
    ),
    _defect(
        "table_reversed",
        "the table of the 16 codes is loaded in reverse",
        "catastrophic",
        "bitsandbytes-foundation/bitsandbytes#1789",
        _reverse_table,
    ),
    _defect(
        "signs_flipped",
        "every value has the other sign",
        "catastrophic",
        "bitsandbytes-foundation/bitsandbytes#1789",
        _flip_signs,
    ),
    _defect(
        "rounded_toward_zero",
        "truncation instead of rounding to nearest",
        "silent",
        "microsoft/onnxruntime#18576 ROCm/aiter#4637 flashinfer-ai/flashinfer#4019",
        _rounded("toward_zero"),
    ),
    _defect(
        "rounded_ties_away",
        "ties go away from zero instead of to even",
        "silent",
        "ROCm/aiter#975 openvinotoolkit/openvino#38158 triton-lang/triton#11753",
        _rounded("nearest_away"),
    ),
    _defect(
        "rounded_down",
        "floor instead of rounding to nearest",
        "silent",
        "microsoft/onnxruntime#18576",
        _rounded("down"),
    ),
    _defect(
        "rounded_twice",
        "rounded to bfloat16 on the way to the codes",
        "silent",
        "flashinfer-ai/flashinfer#4160 vllm-project/compressed-tensors#820",
        _round_twice,
    ),
    _defect(
        "subnormals_flushed",
        "elements below the smallest normal number become zero",
        "silent",
        "vllm-project/vllm#55673",
        _flush_subnormals,
    ),
    dataclasses.replace(
        _defect(
            "codes_off_by_one",
            "some codes are one step too large",
            "silent",
            "microsoft/onnxruntime#16938 onnx/onnx#5456",
            _off_by_one,
        ),
        parameter=Parameter(name="share of codes", low=1e-3, catalogue=0.03, high=0.5),
    ),
    _defect(
        "zero_point_off_by_one",
        "every code is read one step too large",
        "visible",
        "ModelCloud/GPTQModel#2351 iree-org/iree#24583",
        _zero_point,
    ),
    _defect(
        "columns_interleaved",
        "columns shuffled for another kernel: even ones first",
        "catastrophic",
        "sgl-project/sglang#26884",
        _interleave,
    ),
    _defect(
        "columns_permuted",
        "the permutation of the input channels (g_idx) is ignored",
        "catastrophic",
        "AutoGPTQ/AutoGPTQ#201",
        _permute,
    ),
    _defect(
        "channels_shifted",
        "every output channel is its neighbour's",
        "catastrophic",
        "ml-explore/mlx#3912",
        _roll_rows,
    ),
    _defect(
        "weight_transposed",
        "a square weight is read in the other order",
        "catastrophic",
        "iree-org/iree#22104",
        _transpose,
    ),
    dataclasses.replace(
        _defect(
            "columns_dropped",
            "the last columns of the reduction are left out",
            "silent",
            "ml-explore/mlx#3854 ml-explore/mlx#3445",
            _drop_columns,
        ),
        parameter=Parameter(name="columns", low=1, catalogue=16, high=64),
    ),
    _defect(
        "other_operators_weight",
        "the weight of another operator of the same shape",
        "catastrophic",
        "ikawrakow/ik_llama.cpp#1592",
        _of_other,
    ),
    _defect(
        "left_unquantized",
        "the weight is not quantized at all",
        "silent",
        "verl-project/verl#7918 vllm-project/llm-compressor#2833",
        _unquantized,
    ),
    _defect(
        "coarser_format",
        "the weight is stored in another format of the same size or smaller",
        "visible",
        "vllm-project/vllm#31609 casper-hansen/AutoAWQ#243",
        _coarser,
    ),
    _defect(
        "blocks_too_wide",
        "the largest value is taken over two blocks",
        "silent",
        "ml-explore/mlx#3844",
        _wide_blocks,
    ),
    dataclasses.replace(
        _defect(
            "weight_perturbed",
            "quantized from another copy of the weight: a solver gone astray",
            "silent",
            "ml-explore/mlx-lm#1878 vllm-project/llm-compressor#2114",
            _perturbed,
        ),
        parameter=Parameter(
            name="relative change of the weight", low=1e-3, catalogue=0.05, high=0.5
        ),
    ),
)
