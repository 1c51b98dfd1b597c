"""Operators of networks: products, convolutions, pooling, integer Q/DQ."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, Final

import torch
import torch.nn.functional as F  # noqa: N812 - torch's own convention

from harness.errors import UnsupportedError
from harness.models.graph_ops.common import Attributes, Op, T, binary, given
from harness.models.graph_ops.resize import resize


def _gemm(x: Sequence[Any], a: Attributes, _: torch.dtype) -> T:
    left = x[0].T if a.get("transA", 0) else x[0]
    right = x[1].T if a.get("transB", 0) else x[1]
    result = float(a.get("alpha", 1.0)) * (left @ right)
    if given(x, 2) is not None:
        result = result + float(a.get("beta", 1.0)) * x[2]
    tensor: T = result
    return tensor


def _pads(x: T, a: Attributes, kernel: Sequence[int]) -> list[int]:
    """Begin and end padding of each spatial axis, in the order of `F.pad`.

    `auto_pad` SAME gives ceil(length / stride) outputs; the odd element goes to the
    end (UPPER) or the beginning (LOWER).
    """
    spatial = len(kernel)
    strides = a.get("strides", [1] * spatial)
    dilations = a.get("dilations", [1] * spatial)
    auto = a.get("auto_pad", "NOTSET")
    pads = list(a.get("pads", [0] * 2 * spatial))
    if auto == "VALID":
        pads = [0] * 2 * spatial
    elif auto in ("SAME_UPPER", "SAME_LOWER"):
        for i, length in enumerate(x.shape[2:]):
            reach = (kernel[i] - 1) * dilations[i] + 1
            steps = math.ceil(length / strides[i]) - 1
            total = max(steps * strides[i] + reach - length, 0)
            less = total // 2
            begin = less if auto == "SAME_UPPER" else total - less
            pads[i], pads[i + spatial] = begin, total - begin
    return [n for i in reversed(range(spatial)) for n in (pads[i], pads[i + spatial])]


def _conv(x: Sequence[Any], a: Attributes, _: torch.dtype) -> T:
    """A convolution whose weight is not constant, or that torch's layers cannot say."""
    spatial = x[0].ndim - 2
    function = _by_rank(F.conv1d, F.conv2d, F.conv3d, spatial)
    result: T = function(
        F.pad(x[0], _pads(x[0], a, x[1].shape[2:])),
        x[1],
        given(x, 2),
        stride=list(a.get("strides", [1] * spatial)),
        dilation=list(a.get("dilations", [1] * spatial)),
        groups=int(a.get("group", 1)),
    )
    return result


def _by_rank(one: Any, two: Any, three: Any, spatial: int) -> Any:
    if spatial not in (1, 2, 3):
        raise UnsupportedError(f"{spatial} spatial axes are not run in torch")
    return (one, two, three)[spatial - 1]


def _conv_transpose(x: Sequence[Any], a: Attributes, _: torch.dtype) -> T:
    """Whole, then cut: torch pads both ends alike, ONNX need not."""
    spatial = x[0].ndim - 2
    if "output_shape" in a or a.get("auto_pad", "NOTSET") not in ("NOTSET", "VALID"):
        raise UnsupportedError("ConvTranspose with output_shape is not run in torch")
    function = _by_rank(
        F.conv_transpose1d, F.conv_transpose2d, F.conv_transpose3d, spatial
    )
    whole: T = function(
        x[0],
        x[1],
        None,
        stride=list(a.get("strides", [1] * spatial)),
        dilation=list(a.get("dilations", [1] * spatial)),
        groups=int(a.get("group", 1)),
    )
    pads = list(a.get("pads", [0] * 2 * spatial))
    extra = list(a.get("output_padding", [0] * spatial))
    cut = [
        n
        for i in reversed(range(spatial))
        for n in (-pads[i], extra[i] - pads[i + spatial])
    ]
    result = F.pad(whole, cut)
    if given(x, 2) is not None:
        result = result + x[2].reshape(1, -1, *[1] * spatial)
    return result


def _pool_arguments(x: T, a: Attributes) -> tuple[list[int], dict[str, Any]]:
    kernel = list(a["kernel_shape"])
    if a.get("dilations") and set(a["dilations"]) != {1} and a.get("ceil_mode", 0):
        raise UnsupportedError("a dilated pooling with ceil_mode is not run in torch")
    pads = _pads(x, a, kernel)
    even = all(pads[i] == pads[i + 1] for i in range(0, len(pads), 2))
    if not even and a.get("ceil_mode", 0):
        raise UnsupportedError("unequal pads with ceil_mode are not run in torch")
    arguments = {
        "kernel_size": kernel,
        "stride": list(a.get("strides", [1] * len(kernel))),
        "ceil_mode": bool(a.get("ceil_mode", 0)),
    }
    small = all(2 * p <= k for p, k in zip(pads[::-2], kernel, strict=True))
    if even and small:
        arguments["padding"] = pads[::-2]
        pads = []
    return pads, arguments


def _average_pool(x: Sequence[Any], a: Attributes, _: torch.dtype) -> T:
    kernel = list(a["kernel_shape"])
    if set(a.get("dilations", [1])) != {1}:
        raise UnsupportedError("a dilated AveragePool is not run in torch")
    pool = _by_rank(F.avg_pool1d, F.avg_pool2d, F.avg_pool3d, len(kernel))
    include = bool(a.get("count_include_pad", 0))
    pads, arguments = _pool_arguments(x[0], a)
    if not pads:
        result: T = pool(x[0], **arguments, count_include_pad=include)
        return result
    # Padding at one end only: a mean over zeros too, corrected for how many there are.
    mean = pool(F.pad(x[0], pads), **arguments)
    if include:
        return mean
    share = pool(F.pad(torch.ones_like(x[0]), pads), **arguments)
    return mean / share


def _max_pool(x: Sequence[Any], a: Attributes, _: torch.dtype) -> T:
    kernel = list(a["kernel_shape"])
    if a["_outputs"] > 1:
        raise UnsupportedError("MaxPool with indices is not run in torch")
    pool = _by_rank(F.max_pool1d, F.max_pool2d, F.max_pool3d, len(kernel))
    pads, arguments = _pool_arguments(x[0], a)
    data = F.pad(x[0], pads, value=_lowest(x[0].dtype)) if pads else x[0]
    dilation = list(a.get("dilations", [1] * len(kernel)))
    result: T = pool(data, **arguments, dilation=dilation)
    return result


def _lowest(dtype: torch.dtype) -> float:
    return float("-inf") if dtype.is_floating_point else torch.iinfo(dtype).min


def _global(function: Any) -> Op:
    return lambda x, _a, _d: function(
        x[0], dim=tuple(range(2, x[0].ndim)), keepdim=True
    )


def _dropout(x: Sequence[Any], a: Attributes, _: torch.dtype) -> T | tuple[T, T]:
    """At inference nothing is dropped."""
    if a["_outputs"] == 1:
        return x[0]
    return x[0], torch.ones_like(x[0], dtype=torch.bool)


def _einsum(x: Sequence[Any], a: Attributes, _: torch.dtype) -> T:
    return torch.einsum(a["equation"], *x)


def _local_response_norm(x: Sequence[Any], a: Attributes, _: torch.dtype) -> T:
    size = int(a["size"])
    square = F.pad(
        x[0].square(), [0, 0] * (x[0].ndim - 2) + [(size - 1) // 2, size // 2]
    )
    total = square.unfold(1, size, 1).sum(-1)
    scale = float(a.get("bias", 1.0)) + float(a.get("alpha", 1e-4)) / size * total
    result: T = x[0] / scale.pow(float(a.get("beta", 0.75)))
    return result


def _spread(parameter: T, data: T, a: Attributes) -> T:
    """A scale or zero point, shaped so that it meets its elements."""
    if parameter.numel() == 1 and parameter.ndim < 2:
        return parameter.reshape(())
    axis = int(a.get("axis", 1)) % data.ndim
    if parameter.ndim == 1:
        return parameter.reshape(-1, *[1] * (data.ndim - axis - 1))
    block = math.ceil(data.shape[axis] / parameter.shape[axis])
    repeated = parameter.repeat_interleave(block, dim=axis)
    return repeated.narrow(axis, 0, data.shape[axis])


def _quantize(x: Sequence[Any], a: Attributes, _: torch.dtype) -> T:
    zero = given(x, 2)
    if zero is None or zero.is_floating_point():
        raise UnsupportedError("QuantizeLinear to no integer is not run in torch")
    codes = torch.round(x[0] / _spread(x[1], x[0], a)) + _spread(zero, x[0], a)
    limits = torch.iinfo(zero.dtype)
    tensor: T = codes.clamp(limits.min, limits.max).to(zero.dtype)
    return tensor


def _dequantize(x: Sequence[Any], a: Attributes, dtype: torch.dtype) -> T:
    codes = x[0].to(dtype)
    if given(x, 2) is not None:
        codes = codes - _spread(x[2], x[0], a).to(dtype)
    tensor: T = codes * _spread(x[1], x[0], a)
    return tensor


LAYERS: Final[Mapping[str, Op]] = {
    "AveragePool": _average_pool,
    "Conv": _conv,
    "ConvTranspose": _conv_transpose,
    "DequantizeLinear": _dequantize,
    "Dropout": _dropout,
    "Einsum": _einsum,
    "Gemm": _gemm,
    "GlobalAveragePool": _global(torch.mean),
    "GlobalMaxPool": _global(torch.amax),
    "LRN": _local_response_norm,
    "MatMul": binary(torch.matmul),
    "MaxPool": _max_pool,
    "QuantizeLinear": _quantize,
    "Resize": resize,
}
