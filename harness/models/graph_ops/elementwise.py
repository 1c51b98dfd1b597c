"""Operators that work on each element: arithmetic, comparisons, activations, casts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

import torch
import torch.nn.functional as F  # noqa: N812 - torch's own convention

from harness.errors import UnsupportedError
from harness.models.graph_ops.common import (
    INTEGERS,
    NARROW,
    WIDE,
    Attributes,
    Op,
    T,
    binary,
    folded,
    given,
    unary,
)


def _cast(x: Sequence[Any], a: Attributes, dtype: torch.dtype) -> T:
    """To FLOAT or DOUBLE: the module's dtype; to FLOAT16 or BFLOAT16: rounded."""
    wanted = int(a["to"])
    tensor: T
    if wanted in WIDE:
        tensor = x[0].to(dtype)
    elif wanted in NARROW:
        tensor = x[0].to(NARROW[wanted]).to(dtype)
    elif wanted in INTEGERS:
        tensor = x[0].to(INTEGERS[wanted])
    else:
        raise UnsupportedError(f"Cast to ONNX type {wanted} is not run in torch")
    return tensor


def _cast_like(x: Sequence[Any], _: Attributes, dtype: torch.dtype) -> T:
    tensor: T = x[0].to(dtype if x[1].is_floating_point() else x[1].dtype)
    return tensor


def _clip(x: Sequence[Any], _: Attributes, __: torch.dtype) -> T:
    low, high = given(x, 1), given(x, 2)
    low = None if low is None else low.item()
    high = None if high is None else high.item()
    if low is None and high is None:
        return x[0]
    return torch.clamp(x[0], low, high)


def _divide(a: T, b: T) -> T:
    """Integers divide toward zero, as ONNX says."""
    if a.is_floating_point():
        return a / b
    return torch.div(a, b, rounding_mode="trunc")


def _modulo(x: Sequence[Any], a: Attributes, _: torch.dtype) -> T:
    """Sign of the divisor, or with `fmod` of the dividend."""
    return (torch.fmod if a.get("fmod", 0) else torch.remainder)(x[0], x[1])


def _power(x: Sequence[Any], _: Attributes, __: torch.dtype) -> T:
    """The result has the type of the base, whatever the exponent's."""
    result: T = torch.pow(x[0], x[1]).to(x[0].dtype)
    return result


def _is_inf(x: Sequence[Any], a: Attributes, _: torch.dtype) -> T:
    found = torch.zeros_like(x[0], dtype=torch.bool)
    if a.get("detect_positive", 1):
        found = found | torch.isposinf(x[0])
    if a.get("detect_negative", 1):
        found = found | torch.isneginf(x[0])
    return found


def _gelu(x: Sequence[Any], a: Attributes, _: torch.dtype) -> T:
    return F.gelu(x[0], approximate=str(a.get("approximate", "none")))


def _hard_sigmoid(x: Sequence[Any], a: Attributes, _: torch.dtype) -> T:
    slope, offset = float(a.get("alpha", 0.2)), float(a.get("beta", 0.5))
    return torch.clamp(x[0] * slope + offset, 0.0, 1.0)


def _prelu(x: Sequence[Any], _: Attributes, __: torch.dtype) -> T:
    return torch.where(x[0] >= 0, x[0], x[0] * x[1])


def _selu(x: Sequence[Any], a: Attributes, _: torch.dtype) -> T:
    alpha = float(a.get("alpha", 1.67326319217681884765625))
    gamma = float(a.get("gamma", 1.05070102214813232421875))
    return gamma * F.elu(x[0], alpha)


def _shrink(x: Sequence[Any], a: Attributes, _: torch.dtype) -> T:
    limit, bias = float(a.get("lambd", 0.5)), float(a.get("bias", 0.0))
    middle = torch.where(x[0] > limit, x[0] - bias, torch.zeros_like(x[0]))
    return torch.where(x[0] < -limit, x[0] + bias, middle)


def _thresholded_relu(x: Sequence[Any], a: Attributes, _: torch.dtype) -> T:
    return torch.where(x[0] > float(a.get("alpha", 1.0)), x[0], torch.zeros_like(x[0]))


def _alpha(function: Any, default: float) -> Op:
    return lambda x, a, _d: function(x[0], float(a.get("alpha", default)))


ELEMENTWISE: Final[Mapping[str, Op]] = {
    "Abs": unary(torch.abs),
    "Acos": unary(torch.acos),
    "Acosh": unary(torch.acosh),
    "Add": binary(torch.add),
    "And": binary(torch.logical_and),
    "Asin": unary(torch.asin),
    "Asinh": unary(torch.asinh),
    "Atan": unary(torch.atan),
    "Atanh": unary(torch.atanh),
    "BitwiseAnd": binary(torch.bitwise_and),
    "BitwiseNot": unary(torch.bitwise_not),
    "BitwiseOr": binary(torch.bitwise_or),
    "BitwiseXor": binary(torch.bitwise_xor),
    "Cast": _cast,
    "CastLike": _cast_like,
    "Ceil": unary(torch.ceil),
    "Celu": _alpha(F.celu, 1.0),
    "Clip": _clip,
    "Cos": unary(torch.cos),
    "Cosh": unary(torch.cosh),
    "Div": binary(_divide),
    "Elu": _alpha(F.elu, 1.0),
    "Equal": binary(torch.eq),
    "Erf": unary(torch.erf),
    "Exp": unary(torch.exp),
    "Floor": unary(torch.floor),
    "Gelu": _gelu,
    "Greater": binary(torch.gt),
    "GreaterOrEqual": binary(torch.ge),
    "HardSigmoid": _hard_sigmoid,
    "HardSwish": unary(F.hardswish),
    "Identity": unary(lambda x: x),
    "IsInf": _is_inf,
    "IsNaN": unary(torch.isnan),
    "LeakyRelu": _alpha(F.leaky_relu, 0.01),
    "Less": binary(torch.lt),
    "LessOrEqual": binary(torch.le),
    "Log": unary(torch.log),
    "Max": folded(torch.maximum),
    "Mean": lambda x, _a, _d: sum(x[1:], start=x[0]) / len(x),
    "Min": folded(torch.minimum),
    "Mish": unary(F.mish),
    "Mod": _modulo,
    "Mul": binary(torch.mul),
    "Neg": unary(torch.neg),
    "Not": unary(torch.logical_not),
    "Or": binary(torch.logical_or),
    "PRelu": _prelu,
    "Pow": _power,
    "Reciprocal": unary(torch.reciprocal),
    "Relu": unary(torch.relu),
    "Round": unary(torch.round),
    "Selu": _selu,
    "Shrink": _shrink,
    "Sigmoid": unary(torch.sigmoid),
    "Sign": unary(torch.sign),
    "Sin": unary(torch.sin),
    "Sinh": unary(torch.sinh),
    "Softplus": unary(F.softplus),
    "Softsign": unary(F.softsign),
    "Sqrt": unary(torch.sqrt),
    "Sub": binary(torch.sub),
    "Sum": folded(torch.add),
    "Swish": lambda x, a, _d: x[0] * torch.sigmoid(float(a.get("alpha", 1.0)) * x[0]),
    "Tan": unary(torch.tan),
    "Tanh": unary(torch.tanh),
    "ThresholdedRelu": _thresholded_relu,
    "Where": lambda x, _a, _d: torch.where(x[0], x[1], x[2]),
    "Xor": binary(torch.logical_xor),
}
