"""Operators that move, pick, repeat or make elements."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, Final

import torch
import torch.nn.functional as F  # noqa: N812 - torch's own convention

from harness.errors import UnsupportedError
from harness.models.graph_ops.common import (
    INTEGERS,
    Attributes,
    Op,
    T,
    axes_of,
    given,
    ints,
)


def _reshape(x: Sequence[Any], a: Attributes, _: torch.dtype) -> T:
    shape = ints(x[1])
    if not a.get("allowzero", 0):
        shape = [x[0].shape[i] if n == 0 else n for i, n in enumerate(shape)]
    tensor: T = x[0].reshape(shape)
    return tensor


def _flatten(x: Sequence[Any], a: Attributes, _: torch.dtype) -> T:
    axis = int(a.get("axis", 1))
    axis = axis + x[0].ndim if axis < 0 else axis
    rows = math.prod(x[0].shape[:axis])
    tensor: T = x[0].reshape(rows, math.prod(x[0].shape[axis:]))
    return tensor


def _slice(x: Sequence[Any], _: Attributes, __: torch.dtype) -> T:
    data = x[0]
    starts, ends = ints(x[1]), ints(x[2])
    axes = axes_of(x, {}, 3) or list(range(len(starts)))
    steps = axes_of(x, {}, 4) or [1] * len(starts)
    for start, end, axis, step in zip(starts, ends, axes, steps, strict=True):
        length = data.shape[axis]
        picked = range(length)[slice(start, _end(end, step, length), step)]
        if step == 1:
            data = data.narrow(axis, picked.start, len(picked))
        else:
            index = torch.tensor(list(picked), device=data.device, dtype=torch.int64)
            data = data.index_select(axis, index)
    tensor: T = data
    return tensor


def _end(end: int, step: int, length: int) -> int | None:
    """Counting down, an end before the first element means "through the first"."""
    return None if step < 0 and end < -length else end


def _squeeze(x: Sequence[Any], a: Attributes, _: torch.dtype) -> T:
    axes = axes_of(x, a)
    tensor: T = x[0].squeeze() if axes is None else x[0].squeeze(tuple(axes))
    return tensor


def _unsqueeze(x: Sequence[Any], a: Attributes, _: torch.dtype) -> T:
    axes = axes_of(x, a) or []
    ndim = x[0].ndim + len(axes)
    tensor: T = x[0]
    for axis in sorted(axis % ndim for axis in axes):
        tensor = tensor.unsqueeze(axis)
    return tensor


def _split(x: Sequence[Any], a: Attributes, _: torch.dtype) -> tuple[T, ...]:
    axis = int(a.get("axis", 0))
    sizes = axes_of(x, {})
    if sizes is None:
        parts = int(a.get("num_outputs", 0)) or int(a["_outputs"])
        size = math.ceil(x[0].shape[axis] / parts)
        return tuple(x[0].split(size, dim=axis))
    return tuple(x[0].split(sizes, dim=axis))


def _pad(x: Sequence[Any], a: Attributes, _: torch.dtype) -> T:
    data, pads = x[0], ints(x[1])
    axes = axes_of(x, {}, 3) or list(range(data.ndim))
    axes = [axis % data.ndim for axis in axes]
    by_axis = {axis: (pads[i], pads[i + len(axes)]) for i, axis in enumerate(axes)}
    mode = a.get("mode", "constant")
    if mode == "constant":
        value = x[2].item() if given(x, 2) is not None else 0
        flat = [
            n for axis in reversed(range(data.ndim)) for n in by_axis.get(axis, (0, 0))
        ]
        return F.pad(data, flat, value=value)
    if mode not in ("reflect", "edge", "wrap"):
        raise UnsupportedError(f"Pad with mode={mode!r} is not run in torch")
    # By indices, one axis after another: torch pads only some ranks by reflection.
    for axis, (before, after) in by_axis.items():
        if before or after:
            index = _outside(mode, data.shape[axis], before, after)
            data = data.index_select(axis, index.to(data.device))
    tensor: T = data
    return tensor


def _outside(mode: str, length: int, before: int, after: int) -> T:
    """Which element stands at each place of a padded axis."""
    index = torch.arange(-before, length + after)
    if mode == "wrap":
        return index % length
    if mode == "reflect":
        index = index.abs()
        index = (length - 1) - (length - 1 - index).abs()
    return index.clamp(0, length - 1)


def _from_end(index: T, length: int) -> T:
    """Indices with the negative ones counted from the end."""
    index = index.to(torch.int64)
    return torch.where(index < 0, index + length, index)


def _gather(x: Sequence[Any], a: Attributes, _: torch.dtype) -> T:
    axis = int(a.get("axis", 0)) % x[0].ndim
    index = _from_end(x[1], x[0].shape[axis])
    picked = x[0].index_select(axis, index.reshape(-1))
    shape = [*x[0].shape[:axis], *index.shape, *x[0].shape[axis + 1 :]]
    tensor: T = picked.reshape(shape)
    return tensor


def _gather_elements(x: Sequence[Any], a: Attributes, _: torch.dtype) -> T:
    axis = int(a.get("axis", 0))
    return torch.gather(x[0], axis, _from_end(x[1], x[0].shape[axis]))


def _gather_nd(x: Sequence[Any], a: Attributes, _: torch.dtype) -> T:
    batch = int(a.get("batch_dims", 0))
    data, index = x[0], x[1].to(torch.int64)
    lead = list(data.shape[:batch])
    data = data.reshape(-1, *data.shape[batch:])
    index = index.reshape(data.shape[0], *index.shape[batch:])
    rows = [row[tuple(i.unbind(-1))] for row, i in zip(data, index, strict=True)]
    tensor: T = torch.stack(rows)
    return tensor.reshape(*lead, *tensor.shape[1:])


_REDUCTIONS: Final = {"add": "sum", "mul": "prod", "max": "amax", "min": "amin"}


def _scatter_elements(x: Sequence[Any], a: Attributes, _: torch.dtype) -> T:
    axis, how = int(a.get("axis", 0)), a.get("reduction", "none")
    index = _from_end(x[1], x[0].shape[axis])
    if how == "none":
        return torch.scatter(x[0], axis, index, x[2])
    return torch.scatter_reduce(x[0], axis, index, x[2], reduce=_REDUCTIONS[how])


def _scatter_nd(x: Sequence[Any], a: Attributes, _: torch.dtype) -> T:
    how = a.get("reduction", "none")
    index = x[1].to(torch.int64)
    depth = index.shape[-1]
    sizes = torch.tensor(x[0].shape[:depth], device=index.device)
    index = torch.where(index < 0, index + sizes, index).reshape(-1, depth)
    # As scatter along one axis of rows: a row for each place that an index can name.
    strides = sizes.flip(0).cumprod(0).flip(0).roll(-1)
    strides[-1] = 1
    data = x[0].reshape(math.prod(x[0].shape[:depth]), -1)
    rows = (index * strides).sum(-1, keepdim=True).expand(-1, data.shape[1])
    updates = x[2].reshape(rows.shape)
    if how == "none":
        result = torch.scatter(data, 0, rows, updates)
    else:
        result = torch.scatter_reduce(data, 0, rows, updates, reduce=_REDUCTIONS[how])
    return result.reshape(x[0].shape)


def _one_hot(x: Sequence[Any], a: Attributes, _: torch.dtype) -> T:
    depth, axis = ints(x[1])[0], int(a.get("axis", -1))
    hot = _from_end(x[0], depth).unsqueeze(-1) == torch.arange(
        depth, device=x[0].device
    )
    off, on = x[2][0], x[2][1]
    result = torch.where(hot, on, off)
    return result.movedim(-1, axis)


def _trilu(x: Sequence[Any], a: Attributes, _: torch.dtype) -> T:
    offset = ints(x[1])[0] if given(x, 1) is not None else 0
    return (torch.triu if a.get("upper", 1) else torch.tril)(x[0], offset)


def _shape(x: Sequence[Any], a: Attributes, _: torch.dtype) -> T:
    shape = list(x[0].shape)[a.get("start", 0) : a.get("end")]
    return torch.tensor(shape, dtype=torch.int64, device=x[0].device)


def _constant_of_shape(x: Sequence[Any], a: Attributes, dtype: torch.dtype) -> T:
    value = a.get("value")
    if value is None:
        return torch.zeros(ints(x[0]), dtype=dtype, device=x[0].device)
    from onnx import numpy_helper

    filled = torch.from_numpy(numpy_helper.to_array(value).copy()).reshape(())
    wanted = dtype if filled.is_floating_point() else filled.dtype
    return torch.full(ints(x[0]), filled.item(), dtype=wanted, device=x[0].device)


def _eye_like(x: Sequence[Any], a: Attributes, dtype: torch.dtype) -> T:
    wanted = INTEGERS.get(int(a["dtype"]), dtype) if "dtype" in a else x[0].dtype
    ones = torch.ones(x[0].shape, dtype=torch.int64, device=x[0].device)
    offset = int(a.get("k", 0))
    return ones.tril(offset).triu(offset).to(wanted)


def _range(x: Sequence[Any], _: Attributes, __: torch.dtype) -> T:
    start, limit, delta = (entry.item() for entry in x)
    return torch.arange(start, limit, delta, dtype=x[0].dtype, device=x[0].device)


def _expand(x: Sequence[Any], _: Attributes, __: torch.dtype) -> T:
    shape = torch.broadcast_shapes(tuple(x[0].shape), tuple(ints(x[1])))
    tensor: T = x[0].expand(shape)
    return tensor


def _depth_to_space(x: Sequence[Any], a: Attributes, _: torch.dtype) -> T:
    n, c, h, w = x[0].shape
    b = int(a["blocksize"])
    if a.get("mode", "DCR") == "CRD":
        return F.pixel_shuffle(x[0], b)
    blocks = x[0].reshape(n, b, b, c // (b * b), h, w).permute(0, 3, 4, 1, 5, 2)
    tensor: T = blocks.reshape(n, c // (b * b), h * b, w * b)
    return tensor


def _space_to_depth(x: Sequence[Any], a: Attributes, _: torch.dtype) -> T:
    n, c, h, w = x[0].shape
    b = int(a["blocksize"])
    if a.get("mode", "DCR") == "CRD":
        return F.pixel_unshuffle(x[0], b)
    blocks = x[0].reshape(n, c, h // b, b, w // b, b).permute(0, 3, 5, 1, 2, 4)
    tensor: T = blocks.reshape(n, c * b * b, h // b, w // b)
    return tensor


def _transpose(x: Sequence[Any], a: Attributes, _: torch.dtype) -> T:
    tensor: T = x[0].permute(list(a.get("perm", range(x[0].ndim - 1, -1, -1))))
    return tensor


def _size(x: Sequence[Any], _: Attributes, __: torch.dtype) -> T:
    return torch.tensor(x[0].numel(), dtype=torch.int64, device=x[0].device)


SHAPES: Final[Mapping[str, Op]] = {
    "Concat": lambda x, a, _d: torch.cat(list(x), dim=int(a["axis"])),
    "ConstantOfShape": _constant_of_shape,
    "DepthToSpace": _depth_to_space,
    "Expand": _expand,
    "EyeLike": _eye_like,
    "Flatten": _flatten,
    "Gather": _gather,
    "GatherElements": _gather_elements,
    "GatherND": _gather_nd,
    "NonZero": lambda x, _a, _d: torch.nonzero(x[0]).T,
    "OneHot": _one_hot,
    "Pad": _pad,
    "Range": _range,
    "Reshape": _reshape,
    "ScatterElements": _scatter_elements,
    "ScatterND": _scatter_nd,
    "Shape": _shape,
    "Size": _size,
    "Slice": _slice,
    "SpaceToDepth": _space_to_depth,
    "Split": _split,
    "Squeeze": _squeeze,
    "Tile": lambda x, _a, _d: x[0].repeat(ints(x[1])),
    "Transpose": _transpose,
    "Trilu": _trilu,
    "Unsqueeze": _unsqueeze,
}
