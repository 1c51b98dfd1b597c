"""What a model of ONNX is after it was quantized, and where its operators are."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from harness.schemes.apply import OperatorPlan

if TYPE_CHECKING:
    import onnx


@dataclass(frozen=True)
class QuantizedModel:
    """A built model, and where its operators are."""

    proto: onnx.ModelProto
    #: Operator -> the tensors that show its input (before quantization) and output.
    observed: Mapping[str, tuple[str, str]]
    #: Operator -> the decoded weight's tensor; "" for MatMulNBits, which holds codes.
    weights: Mapping[str, str]
    plans: Mapping[str, OperatorPlan]
    #: Operators whose weight is stored (in, out).
    transposed: frozenset[str] = frozenset()
