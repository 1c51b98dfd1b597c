"""ONNX operators in torch: adding one is adding an entry to `OPS`.

An entry takes the tensors of a node's inputs (None for an absent optional one), its
attributes and the dtype that the module computes in; it returns one tensor or a tuple.
Semantics: the ONNX operator specification, opset 21 (earlier opsets are raised to it).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

import torch
import torch.nn.functional as F  # noqa: N812 - torch's own convention

from harness.errors import UnsupportedError

T = torch.Tensor
Attributes = Mapping[str, Any]
Op = Callable[[Sequence[Any], Attributes, torch.dtype], Any]

#: ONNX element type -> torch dtype; None: the floating dtype the module computes in.
_DTYPES: Final[Mapping[int, torch.dtype | None]] = {
    1: None,
    2: torch.uint8,
    3: torch.int8,
    5: torch.int16,
    6: torch.int32,
    7: torch.int64,
    9: torch.bool,
    10: None,
    11: None,
    16: None,
}


def _ints(tensor: T) -> list[int]:
    return [int(value) for value in tensor.reshape(-1).tolist()]


def _axes(x: Sequence[Any], a: Attributes, index: int = 1) -> list[int] | None:
    """Axes given as an input (newer opsets) or an attribute (older ones)."""
    if len(x) > index and x[index] is not None:
        return _ints(x[index])
    return list(a["axes"]) if "axes" in a else None


def _cast(x: Sequence[Any], a: Attributes, dtype: torch.dtype) -> T:
    wanted = _DTYPES.get(int(a["to"]), False)
    if wanted is False:
        raise UnsupportedError(f"Cast to ONNX type {a['to']} is not run in torch")
    tensor: T = x[0].to(dtype if wanted is None else wanted)
    return tensor


def _reshape(x: Sequence[Any], a: Attributes, _: torch.dtype) -> T:
    shape = _ints(x[1])
    if not a.get("allowzero", 0):
        shape = [x[0].shape[i] if n == 0 else n for i, n in enumerate(shape)]
    tensor: T = x[0].reshape(shape)
    return tensor


def _slice(x: Sequence[Any], _: Attributes, __: torch.dtype) -> T:
    data = x[0]
    starts, ends = _ints(x[1]), _ints(x[2])
    axes = _ints(x[3]) if len(x) > 3 and x[3] is not None else list(range(len(starts)))
    steps = _ints(x[4]) if len(x) > 4 and x[4] is not None else [1] * len(starts)
    for start, end, axis, step in zip(starts, ends, axes, steps, strict=True):
        picked = range(data.shape[axis])[slice(start, _end(end, step), step)]
        if step == 1:
            data = data.narrow(axis, picked.start, len(picked))
        else:
            index = torch.tensor(list(picked), device=data.device, dtype=torch.int64)
            data = data.index_select(axis, index)
    tensor: T = data
    return tensor


def _end(end: int, step: int) -> int | None:
    """Counting down, an end far below zero means "through the first"."""
    return None if step < 0 and end < -(2**31) + 1 else end


def _squeeze(x: Sequence[Any], a: Attributes, _: torch.dtype) -> T:
    axes = _axes(x, a)
    tensor: T = x[0].squeeze() if axes is None else x[0].squeeze(tuple(axes))
    return tensor


def _unsqueeze(x: Sequence[Any], a: Attributes, _: torch.dtype) -> T:
    axes = _axes(x, a) or []
    ndim = x[0].ndim + len(axes)
    tensor: T = x[0]
    for axis in sorted(axis % ndim for axis in axes):
        tensor = tensor.unsqueeze(axis)
    return tensor


def _split(x: Sequence[Any], a: Attributes, _: torch.dtype) -> tuple[T, ...]:
    axis = int(a.get("axis", 0))
    sizes = _axes(x, {}) or a.get("split")
    if sizes is None:
        parts = int(a.get("num_outputs", 0)) or int(a["_outputs"])
        size = math.ceil(x[0].shape[axis] / parts)
        return tuple(x[0].split(size, dim=axis))
    return tuple(x[0].split(list(sizes), dim=axis))


def _pad(x: Sequence[Any], a: Attributes, _: torch.dtype) -> T:
    data, pads = x[0], _ints(x[1])
    axes = _ints(x[3]) if len(x) > 3 and x[3] is not None else list(range(data.ndim))
    axes = [axis % data.ndim for axis in axes]
    by_axis = {axis: (pads[i], pads[i + len(axes)]) for i, axis in enumerate(axes)}
    mode = a.get("mode", "constant")
    if mode == "constant":
        value = float(x[2]) if len(x) > 2 and x[2] is not None else 0.0
        flat = [
            n for axis in reversed(range(data.ndim)) for n in by_axis.get(axis, (0, 0))
        ]
        return F.pad(data, flat, value=value)
    if mode not in ("reflect", "edge"):
        raise UnsupportedError(f"Pad with mode={mode!r} is not run in torch")
    # By indices, one axis after another: torch pads only some ranks by reflection.
    for axis, (before, after) in by_axis.items():
        if not before and not after:
            continue
        length = data.shape[axis]
        index = torch.arange(-before, length + after, device=data.device)
        if mode == "reflect":
            index = index.abs()
            index = (length - 1) - (length - 1 - index).abs()
        data = data.index_select(axis, index.clamp(0, length - 1))
    tensor: T = data
    return tensor


def _reduce(name: str) -> Op:
    def reduce(x: Sequence[Any], a: Attributes, _: torch.dtype) -> T:
        axes = _axes(x, a)
        keep = bool(a.get("keepdims", 1))
        if axes is None or not axes:
            if a.get("noop_with_empty_axes", 0):
                return x[0]  # type: ignore[no-any-return]
            axes = list(range(x[0].ndim))
        dims = tuple(axes)
        if name == "l2":
            return torch.linalg.vector_norm(x[0], dim=dims, keepdim=keep)
        if name == "prod":
            result = x[0]
            for axis in sorted((axis % x[0].ndim for axis in dims), reverse=True):
                result = result.prod(dim=axis, keepdim=keep)
            return result  # type: ignore[no-any-return]
        function = {"mean": torch.mean, "sum": torch.sum}.get(name)
        if function is None:
            function = {"max": torch.amax, "min": torch.amin}[name]
        return function(x[0], dim=dims, keepdim=keep)

    return reduce


def _pool_pads(a: Attributes) -> list[int]:
    pads = list(a.get("pads", []))
    half = len(pads) // 2
    if pads[:half] != pads[half:]:
        raise UnsupportedError("a pooling with unequal pads is not run in torch")
    return pads[:half]


def _average_pool(x: Sequence[Any], a: Attributes, _: torch.dtype) -> T:
    if a.get("auto_pad", "NOTSET") not in ("NOTSET", "VALID"):
        raise UnsupportedError(f"AveragePool with auto_pad={a['auto_pad']!r}")
    kernel = list(a["kernel_shape"])
    pool = F.avg_pool2d if len(kernel) == 2 else F.avg_pool1d
    return pool(
        x[0],
        kernel,
        stride=list(a.get("strides", [1] * len(kernel))),
        padding=_pool_pads(a) or 0,
        ceil_mode=bool(a.get("ceil_mode", 0)),
        count_include_pad=bool(a.get("count_include_pad", 0)),
    )


def _max_pool(x: Sequence[Any], a: Attributes, _: torch.dtype) -> T:
    if a.get("auto_pad", "NOTSET") not in ("NOTSET", "VALID"):
        raise UnsupportedError(f"MaxPool with auto_pad={a['auto_pad']!r}")
    kernel = list(a["kernel_shape"])
    pool = F.max_pool2d if len(kernel) == 2 else F.max_pool1d
    return pool(
        x[0],
        kernel,
        stride=list(a.get("strides", [1] * len(kernel))),
        padding=_pool_pads(a) or 0,
        dilation=list(a.get("dilations", [1] * len(kernel))),
        ceil_mode=bool(a.get("ceil_mode", 0)),
    )


def _batch_norm(x: Sequence[Any], a: Attributes, _: torch.dtype) -> T:
    return F.batch_norm(x[0], x[3], x[4], x[1], x[2], eps=float(a.get("epsilon", 1e-5)))


def _layer_norm(x: Sequence[Any], a: Attributes, _: torch.dtype) -> T:
    axis = int(a.get("axis", -1)) % x[0].ndim
    shape = list(x[0].shape[axis:])
    bias = x[2] if len(x) > 2 else None
    return F.layer_norm(x[0], shape, x[1], bias, float(a.get("epsilon", 1e-5)))


def _clip(x: Sequence[Any], a: Attributes, _: torch.dtype) -> T:
    low = x[1] if len(x) > 1 else a.get("min")
    high = x[2] if len(x) > 2 else a.get("max")
    low = None if low is None else float(low)
    high = None if high is None else float(high)
    if low is None and high is None:
        return x[0]  # type: ignore[no-any-return]
    return torch.clamp(x[0], low, high)


def _gather(x: Sequence[Any], a: Attributes, _: torch.dtype) -> T:
    axis = int(a.get("axis", 0)) % x[0].ndim
    index = x[1].to(torch.int64)
    index = torch.where(index < 0, index + x[0].shape[axis], index)
    picked = x[0].index_select(axis, index.reshape(-1))
    shape = [*x[0].shape[:axis], *index.shape, *x[0].shape[axis + 1 :]]
    tensor: T = picked.reshape(shape)
    return tensor


def _gemm(x: Sequence[Any], a: Attributes, _: torch.dtype) -> T:
    left = x[0].T if a.get("transA", 0) else x[0]
    right = x[1].T if a.get("transB", 0) else x[1]
    result = float(a.get("alpha", 1.0)) * (left @ right)
    if len(x) > 2 and x[2] is not None:
        result = result + float(a.get("beta", 1.0)) * x[2]
    tensor: T = result
    return tensor


def _shape(x: Sequence[Any], a: Attributes, _: torch.dtype) -> T:
    shape = list(x[0].shape)[a.get("start", 0) : a.get("end")]
    return torch.tensor(shape, dtype=torch.int64, device=x[0].device)


def _constant_of_shape(x: Sequence[Any], a: Attributes, dtype: torch.dtype) -> T:
    value = a.get("value")
    if value is None:
        return torch.zeros(_ints(x[0]), dtype=dtype, device=x[0].device)
    from onnx import numpy_helper

    filled = torch.from_numpy(numpy_helper.to_array(value).copy()).reshape(())
    wanted = dtype if filled.is_floating_point() else filled.dtype
    return torch.full(_ints(x[0]), filled.item(), dtype=wanted, device=x[0].device)


def _range(x: Sequence[Any], _: Attributes, __: torch.dtype) -> T:
    start, limit, delta = (entry.item() for entry in x)
    return torch.arange(start, limit, delta, dtype=x[0].dtype, device=x[0].device)


def _expand(x: Sequence[Any], _: Attributes, __: torch.dtype) -> T:
    shape = torch.broadcast_shapes(tuple(x[0].shape), tuple(_ints(x[1])))
    tensor: T = x[0].expand(shape)
    return tensor


def _gelu(x: Sequence[Any], a: Attributes, _: torch.dtype) -> T:
    return F.gelu(x[0], approximate=str(a.get("approximate", "none")))


def _hard_sigmoid(x: Sequence[Any], a: Attributes, _: torch.dtype) -> T:
    slope, offset = float(a.get("alpha", 0.2)), float(a.get("beta", 0.5))
    return torch.clamp(x[0] * slope + offset, 0.0, 1.0)


def _softmax(x: Sequence[Any], a: Attributes, _: torch.dtype) -> T:
    return torch.softmax(x[0], dim=int(a.get("axis", -1)))


def _conv(x: Sequence[Any], a: Attributes, _: torch.dtype) -> T:
    """A convolution whose weight is not constant, or whose pads are unequal."""
    spatial = x[0].ndim - 2
    if a.get("auto_pad", "NOTSET") not in ("NOTSET", "VALID") or spatial not in (1, 2):
        raise UnsupportedError("a Conv with auto_pad or 3 axes is not run in torch")
    pads = list(a.get("pads", [0] * 2 * spatial))
    flat = [n for i in reversed(range(spatial)) for n in (pads[i], pads[i + spatial])]
    function = F.conv1d if spatial == 1 else F.conv2d
    return function(
        F.pad(x[0], flat),
        x[1],
        x[2] if len(x) > 2 else None,
        stride=list(a.get("strides", [1] * spatial)),
        dilation=list(a.get("dilations", [1] * spatial)),
        groups=int(a.get("group", 1)),
    )


def _unary(function: Callable[[T], T]) -> Op:
    return lambda x, a, d: function(x[0])


def _binary(function: Callable[[T, T], T]) -> Op:
    return lambda x, a, d: function(x[0], x[1])


def _divide(a: T, b: T) -> T:
    """Integers divide toward zero, as ONNX says."""
    if a.is_floating_point():
        return a / b
    return torch.div(a, b, rounding_mode="trunc")


#: ONNX operator -> how torch computes it.
OPS: Final[Mapping[str, Op]] = {
    "Abs": _unary(torch.abs),
    "Add": _binary(torch.add),
    "And": _binary(torch.logical_and),
    "AveragePool": _average_pool,
    "BatchNormalization": _batch_norm,
    "Cast": _cast,
    "Ceil": _unary(torch.ceil),
    "Clip": _clip,
    "Concat": lambda x, a, d: torch.cat(list(x), dim=int(a["axis"])),
    "ConstantOfShape": _constant_of_shape,
    "Conv": _conv,
    "Cos": _unary(torch.cos),
    "Div": _binary(_divide),
    "Dropout": _unary(lambda x: x),
    "Einsum": lambda x, a, d: torch.einsum(a["equation"], *x),
    "Elu": lambda x, a, d: F.elu(x[0], float(a.get("alpha", 1.0))),
    "Equal": _binary(torch.eq),
    "Erf": _unary(torch.erf),
    "Exp": _unary(torch.exp),
    "Expand": _expand,
    "Flatten": lambda x, a, d: x[0].reshape(
        math.prod(x[0].shape[: int(a.get("axis", 1))]), -1
    ),
    "Floor": _unary(torch.floor),
    "Gather": _gather,
    "GatherElements": lambda x, a, d: torch.gather(
        x[0], int(a.get("axis", 0)), x[1].to(torch.int64)
    ),
    "Gelu": _gelu,
    "Gemm": _gemm,
    "GlobalAveragePool": lambda x, a, d: x[0].mean(
        dim=tuple(range(2, x[0].ndim)), keepdim=True
    ),
    "GlobalMaxPool": lambda x, a, d: x[0].amax(
        dim=tuple(range(2, x[0].ndim)), keepdim=True
    ),
    "Greater": _binary(torch.gt),
    "GreaterOrEqual": _binary(torch.ge),
    "HardSigmoid": _hard_sigmoid,
    "HardSwish": _unary(F.hardswish),
    "Identity": _unary(lambda x: x),
    "IsNaN": _unary(torch.isnan),
    "LayerNormalization": _layer_norm,
    "LeakyRelu": lambda x, a, d: F.leaky_relu(x[0], float(a.get("alpha", 0.01))),
    "Less": _binary(torch.lt),
    "LessOrEqual": _binary(torch.le),
    "Log": _unary(torch.log),
    "LogSoftmax": lambda x, a, d: torch.log_softmax(x[0], dim=int(a.get("axis", -1))),
    "MatMul": _binary(torch.matmul),
    "Max": lambda x, a, d: torch.stack(torch.broadcast_tensors(*x)).amax(0),
    "MaxPool": _max_pool,
    "Min": lambda x, a, d: torch.stack(torch.broadcast_tensors(*x)).amin(0),
    "Mul": _binary(torch.mul),
    "Neg": _unary(torch.neg),
    "Not": _unary(torch.logical_not),
    "Or": _binary(torch.logical_or),
    "PRelu": lambda x, a, d: torch.where(x[0] >= 0, x[0], x[0] * x[1]),
    "Pad": _pad,
    "Pow": _binary(torch.pow),
    "Range": _range,
    "Reciprocal": _unary(torch.reciprocal),
    "ReduceL2": _reduce("l2"),
    "ReduceMax": _reduce("max"),
    "ReduceMean": _reduce("mean"),
    "ReduceMin": _reduce("min"),
    "ReduceProd": _reduce("prod"),
    "ReduceSum": _reduce("sum"),
    "Relu": _unary(torch.relu),
    "Reshape": _reshape,
    "Round": _unary(torch.round),
    "Shape": _shape,
    "Sigmoid": _unary(torch.sigmoid),
    "Sign": _unary(torch.sign),
    "Sin": _unary(torch.sin),
    "Size": lambda x, a, d: torch.tensor(x[0].numel(), device=x[0].device),
    "Slice": _slice,
    "Softmax": _softmax,
    "Softplus": _unary(F.softplus),
    "Split": _split,
    "Sqrt": _unary(torch.sqrt),
    "Squeeze": _squeeze,
    "Sub": _binary(torch.sub),
    "Sum": lambda x, a, d: sum(x[1:], start=x[0]),
    "Tanh": _unary(torch.tanh),
    "Tile": lambda x, a, d: x[0].repeat(_ints(x[1])),
    "Transpose": lambda x, a, d: x[0].permute(
        list(a.get("perm", range(x[0].ndim - 1, -1, -1)))
    ),
    "Unsqueeze": _unsqueeze,
    "Where": lambda x, a, d: torch.where(x[0], x[1], x[2]),
    "Xor": _binary(torch.logical_xor),
}
