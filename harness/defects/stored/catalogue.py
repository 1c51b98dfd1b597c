"""Defects of stored bytes, declared.

Each says in `touches` which parts of a weight it may change; everything else of the
file stays, byte for byte.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from harness.defects.stored import changes
from harness.defects.stored.types import Neighbours, StoredWeight
from harness.defects.types import SHARE, Defect, Parameter, Severity

_Change = Callable[[StoredWeight, Neighbours, float], StoredWeight]

_CODES: Final = ("codes",)
_SCALES: Final = ("scales",)
_ROWS: Final = ("codes", "scales", "zeros")


def _defect(  # noqa: PLR0917 - a table's columns
    name: str,
    summary: str,
    severity: Severity,
    links: str,
    touches: tuple[str, ...],
    change: _Change,
    parameter: Parameter = SHARE,
) -> Defect:
    return Defect(
        name=f"stored_{name}",
        summary=summary,
        place="stored",
        severity=severity,
        links=tuple(links.split()),
        change=change,
        touches=touches,
        parameter=parameter,
    )


_SOME_CODES = Parameter(name="share of codes", low=1e-3, catalogue=0.03, high=0.5)
_SOME_SCALES = Parameter(name="share of scales", low=1e-3, catalogue=0.02, high=1.0)
_LAST_ROWS = Parameter(name="share of rows", low=0.01, catalogue=0.1, high=1.0)

STORED: Final = (
    _defect(
        "nibbles_swapped",
        "the two 4-bit codes of every byte of the file change places",
        "catastrophic",
        "openvinotoolkit/openvino#32144",
        _CODES,
        changes.nibbles,
    ),
    _defect(
        "bytes_interleaved",
        "the file's codes are shuffled for a kernel that does not read it",
        "catastrophic",
        "sgl-project/sglang#26884",
        _CODES,
        changes.interleaved,
    ),
    _defect(
        "codes_off_by_one",
        "some codes of the file are one step too large",
        "silent",
        "microsoft/onnxruntime#16938 onnx/onnx#5456",
        _CODES,
        changes.off_by_one,
        _SOME_CODES,
    ),
    _defect(
        "signs_flipped",
        "some codes of the file have the other sign",
        "visible",
        "bitsandbytes-foundation/bitsandbytes#1789",
        _CODES,
        changes.signs_flipped,
        _SOME_CODES,
    ),
    _defect(
        "offset_missing",
        "codes written around zero and read around half of their range",
        "catastrophic",
        "ModelCloud/GPTQModel#2357",
        _CODES,
        changes.offset,
    ),
    _defect(
        "tail_unwritten",
        "the last rows of the file's codes were never written",
        "catastrophic",
        "modal-projects/stitch#16 sgl-project/sglang#30761",
        _CODES,
        changes.unwritten,
        _LAST_ROWS,
    ),
    _defect(
        "scales_halved",
        "some blocks' scales in the file are half of what they should be",
        "silent",
        "onnx/onnx#7784 flashinfer-ai/flashinfer#4396",
        _SCALES,
        changes.halved,
        _SOME_SCALES,
    ),
    _defect(
        "scales_swapped",
        "neighbouring scales of the file change places",
        "visible",
        "deepseek-ai/DeepGEMM#362",
        _SCALES,
        changes.swapped,
    ),
    _defect(
        "scales_shifted",
        "every scale of the file is its neighbour's",
        "visible",
        "ml-explore/mlx#4201",
        _SCALES,
        changes.shifted,
    ),
    _defect(
        "scales_transposed",
        "scales written column by column and read row by row",
        "visible",
        "ROCm/aiter#4506 iree-org/iree#22104",
        _SCALES,
        changes.transposed,
    ),
    _defect(
        "scales_of_other",
        "the scales of another tensor of the file",
        "catastrophic",
        "pytorch/ao#3835",
        _SCALES,
        changes.of_other,
    ),
    _defect(
        "scales_missing",
        "the file's scales are one",
        "catastrophic",
        "Lightricks/LTX-2#172 ggml-org/llama.cpp#23629",
        _SCALES,
        changes.scales_one,
    ),
    _defect(
        "scales_nan",
        "some scales of the file are NaN",
        "catastrophic",
        "NVIDIA/Model-Optimizer#1397",
        _SCALES,
        changes.scales_nan,
        _SOME_SCALES,
    ),
    _defect(
        "scales_power_of_two",
        "scales rounded up to powers of two, the codes left as they were",
        "catastrophic",
        "huggingface/transformers#47030",
        _SCALES,
        changes.powers_of_two,
    ),
    _defect(
        "scales_reciprocal",
        "a scale stored as a divisor where a factor is read",
        "catastrophic",
        "modular/modular#6600",
        ("scales", "tensor_scale"),
        changes.reciprocal,
    ),
    _defect(
        "tensor_scale_missing",
        "the tensor's own scale is not in the file",
        "catastrophic",
        "ggml-org/llama.cpp#23629 ggml-org/llama.cpp#22897",
        ("tensor_scale",),
        changes.tensor_one,
    ),
    _defect(
        "tensor_scale_of_other",
        "the tensor's own scale is another tensor's",
        "visible",
        "vllm-project/llm-compressor#1869 vllm-project/vllm#47515",
        ("tensor_scale",),
        changes.tensor_other,
    ),
    _defect(
        "zero_points_missing",
        "the file's zero points are zero",
        "catastrophic",
        "ModelCloud/GPTQModel#2357 iree-org/iree#24583",
        ("zeros",),
        changes.no_zeros,
    ),
    _defect(
        "zero_points_off_by_one",
        "the file's zero points are one step too large",
        "visible",
        "ModelCloud/GPTQModel#2351",
        ("zeros",),
        changes.zeros_up,
    ),
    _defect(
        "rows_shifted",
        "every output channel of the file is its neighbour's",
        "catastrophic",
        "ml-explore/mlx#3912",
        _ROWS,
        changes.rows_shifted,
    ),
    _defect(
        "rotary_order",
        "rows of queries or keys in the other order for RoPE",
        "catastrophic",
        "ggml-org/llama.cpp#22611 ggml-org/llama.cpp#3364",
        _ROWS,
        changes.rotary,
    ),
    _defect(
        "tensor_stale",
        "the bytes of another tensor: a shard that was not replaced",
        "catastrophic",
        "PrimeIntellect-ai/prime-rl#2438 vllm-project/vllm#45835",
        (*_ROWS, "tensor_scale"),
        changes.stale,
    ),
)
