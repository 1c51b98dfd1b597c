"""What a scheme does to each operator, and doing it to tensors by `numerics`."""

from __future__ import annotations

import fnmatch
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from harness.errors import UnsupportedError
from harness.models.types import Operator
from harness.numerics import FORMATS, Quantized, find_format, quantize
from harness.schemes.checkpoint import (
    rounds_input,
    stored_input_scale,
    stored_layer,
    stored_weight,
    stored_zero_point,
)
from harness.schemes.ggml import RULE, quantize_ggml
from harness.schemes.types import Scheme, TensorScheme

Array = np.ndarray[Any, np.dtype[Any]]


@dataclass(frozen=True)
class OperatorPlan:
    """What becomes of one operator."""

    weights: bool
    activations: bool
    outputs: bool = False
    #: Why it is left alone, if it is.
    reason: str = ""


def plan(scheme: Scheme, operators: Sequence[Operator]) -> dict[str, OperatorPlan]:
    """What a scheme quantizes, operator by operator."""
    return {operator.name: plan_one(scheme, operator) for operator in operators}


def plan_one(scheme: Scheme, operator: Operator) -> OperatorPlan:
    """What a scheme does to one operator."""
    for pattern in scheme.keep:
        if fnmatch.fnmatchcase(operator.name, pattern):
            return _left_alone(f"kept by the scheme ({pattern!r})")
    if scheme.checkpoint:
        if stored_layer(scheme, operator.name) is None:
            return _left_alone("not quantized in the checkpoint")
        return OperatorPlan(
            weights=True, activations=rounds_input(scheme, operator.name)
        )
    blocked = any(
        tensor is not None and tensor.granularity == "block"
        for tensor in (scheme.weights, scheme.activations)
    )
    if blocked and operator.weight.shape[1] == 1:
        return _left_alone("one input channel a group: no block along the channels")
    return OperatorPlan(
        weights=scheme.weights is not None,
        activations=scheme.activations is not None,
        outputs=scheme.outputs is not None,
    )


def _left_alone(reason: str) -> OperatorPlan:
    return OperatorPlan(weights=False, activations=False, reason=reason)


def block_size(tensor: TensorScheme) -> int:
    """Elements that share a scale along the reduction, under granularity `block`."""
    return tensor.block or find_format(tensor.format).block


def quantize_weight(operator: Operator, scheme: Scheme) -> Quantized:
    """The operator's weight, exactly as the scheme says."""
    if scheme.checkpoint:
        return stored_weight(scheme, operator)
    tensor = scheme.weights
    assert tensor is not None  # sanity check
    if tensor.rule == RULE:
        return quantize_ggml(np.asarray(operator.weight, np.float32), tensor)
    axis: int | tuple[int, ...] | None = None
    if tensor.granularity == "block":
        axis = 1
    elif tensor.granularity in ("channel", "row"):
        axis = tuple(range(1, operator.weight.ndim))
    return quantize(
        np.asarray(operator.weight, dtype=np.float32),
        tensor.format,
        axis=axis,
        block=tensor.block,
        rule=tensor.rule,
    )


def activation_axis(
    operator: Operator, tensor: TensorScheme
) -> int | tuple[int, ...] | None:
    """The direction along which an input's values share a scale.

    A row of a linear layer is one vector of the reduction; a "row" of a convolution
    is one sample, because its positions overlap.
    """
    if tensor.granularity == "tensor":
        return None
    if operator.kind == "linear":
        return -1
    spatial = operator.weight.ndim - 2
    return 1 if tensor.granularity == "block" else tuple(range(1, 2 + spatial))


def static_scale(operator: Operator, scheme: Scheme) -> np.float32:
    """float32 scale of a static activation: calibrated amax / largest value.

    For NVFP4 it is the tensor's scale, amax / (6 * 448).

    Raises:
        UnsupportedError: the scheme is not calibrated for this operator.
    """
    tensor = scheme.activations
    assert tensor is not None  # sanity check
    if scheme.checkpoint:
        stored = stored_input_scale(scheme, operator.name)
        if stored is not None:
            return stored
    if operator.name not in scheme.calibration:
        raise UnsupportedError(
            f"{scheme.name} needs the largest input of {operator.name}: record the "
            "suite's golden first, it holds what static schemes are calibrated with",
            operator=operator.name,
        )
    fmt = find_format(tensor.format)
    largest = fmt.max
    if fmt.kind == "block":
        largest *= FORMATS[fmt.scale].max
    amax = np.float32(scheme.calibration[operator.name])
    scale = np.float32(amax / np.float32(largest))
    return scale if scale > 0 else np.float32(1)


def quantize_activation(operator: Operator, x: Array, scheme: Scheme) -> Quantized:
    """The operator's input, exactly as the scheme says."""
    tensor = scheme.activations
    assert tensor is not None  # sanity check
    if tensor.rule == RULE:
        return quantize_ggml(np.asarray(x, dtype=np.float32), tensor)
    scale = global_scale = point = None
    if not tensor.dynamic:
        static = static_scale(operator, scheme)
        if tensor.granularity == "block":
            global_scale = float(static)
        else:
            scale = static
        if scheme.checkpoint and not tensor.symmetric:
            point = stored_zero_point(scheme, operator.name)
    return quantize(
        np.asarray(x, dtype=np.float32),
        tensor.format,
        axis=activation_axis(operator, tensor),
        block=tensor.block,
        rule=tensor.rule,
        scale=scale,
        global_scale=global_scale,
        zero_point=point,
        symmetric=tensor.symmetric,
    )
