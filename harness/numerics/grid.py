"""Which elements share a scale: every granularity as one three-dimensional grid.

A tensor, after putting the axes in order, is seen as (outer, length, inner); a group is
a box of `tall` along the length and `wide` along the inner dimension. One scale a
tensor, a row, a channel, blocks along any axis and two-dimensional blocks are all such
grids, so amax, encoding and decoding are each written once.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from harness.errors import NumericsError

Array = np.ndarray[Any, np.dtype[Any]]
Axis = int | tuple[int, ...] | None
Block = int | tuple[int, int]


@dataclass(frozen=True)
class Grid:
    """How a tensor's groups lie.

    Attributes:
        shape: of the tensor.
        order: permutation of the axes that makes the view; identity if none is needed.
        view: (outer, length, inner) of the permuted tensor.
        tall: elements of a group along the length.
        wide: elements of a group along the inner dimension.
        scales_shape: the tensor's rank; each axis the number of groups along it.
        axis: as given, counted from the front.
        block: as given; 0: the whole axis.
    """

    shape: tuple[int, ...]
    order: tuple[int, ...]
    view: tuple[int, int, int]
    tall: int
    wide: int
    scales_shape: tuple[int, ...]
    axis: int | tuple[int, ...] = 0
    block: Block = 0

    @property
    def groups(self) -> tuple[int, int, int]:
        """Number of groups along each dimension of the view."""
        outer, length, inner = self.view
        return outer, -(-length // self.tall), -(-inner // self.wide)

    def to_view(self, array: Array) -> Array:
        """The tensor as (outer, length, inner), contiguous; copies only if it must."""
        ordered = array.transpose(self.order)
        return np.ascontiguousarray(ordered).reshape(self.view)

    def from_view(self, array: Array) -> Array:
        """The inverse of `to_view`."""
        ordered = array.reshape([self.shape[axis] for axis in self.order])
        return _in_order(ordered, self.order)

    def scales_to_view(self, scales: Array) -> Array:
        """Scales of `scales_shape` as the view's groups."""
        ordered = scales.transpose(self.order)
        return np.ascontiguousarray(ordered).reshape(self.groups)

    def scales_from_view(self, scales: Array) -> Array:
        """The inverse of `scales_to_view`."""
        ordered = scales.reshape([self.scales_shape[axis] for axis in self.order])
        return _in_order(ordered, self.order)

    def spread(self, groups: Array) -> Array:
        """A value of each group as a value of each element of the view."""
        _, length, inner = self.view
        if self.tall > 1 and groups.shape[1] > 1:
            groups = np.repeat(groups, self.tall, axis=1)[:, :length]
        if self.wide > 1 and groups.shape[2] > 1:
            groups = np.repeat(groups, self.wide, axis=2)[:, :, :inner]
        return np.broadcast_to(groups, self.view)

    def expand(self, scales: Array) -> Array:
        """A scale of each group as one of each element, in the tensor's shape."""
        if not math.prod(self.shape):
            return np.ones(self.shape, scales.dtype)
        if all(n in (1, m) for n, m in zip(scales.shape, self.shape, strict=True)):
            return np.broadcast_to(scales, self.shape)
        return self.from_view(self.spread(self.scales_to_view(scales)))


def _in_order(array: Array, order: tuple[int, ...]) -> Array:
    """Undo a permutation; contiguous, and a scalar stays without dimensions."""
    restored = array.transpose(np.argsort(order)) if order else array
    return np.ascontiguousarray(restored).reshape(restored.shape)


def make_grid(shape: tuple[int, ...], axis: Axis, block: Block | None) -> Grid:
    """The grid of a granularity.

    Args:
        shape: of the tensor.
        axis: direction along which values share a scale; None: all; a tuple: several.
        block: None or 0: the whole axis; n: runs of n along it (the last one may be
            shorter; longer than the axis: the whole axis); (m, n): boxes over two axes.

    Raises:
        NumericsError: axis out of range or twice, bad block.
    """
    axes = _axes(axis, len(shape))
    if isinstance(block, tuple):
        grid = _boxes(shape, axis, axes, block)
    elif block is not None and (isinstance(block, bool) or block < 0):
        raise NumericsError(f"block={block!r}, but should be positive")
    elif not block:
        grid = _whole(shape, axes)
    elif isinstance(axis, (int, np.integer)):
        grid = _runs(shape, axes[0], int(block))
    else:
        raise NumericsError(f"block={block} with axis={axis}: blocks run along one")
    counted = axes[0] if isinstance(axis, (int, np.integer)) else axes
    return replace(grid, axis=counted, block=block or 0)


def _axes(axis: Axis, ndim: int) -> tuple[int, ...]:
    if axis is None:
        return tuple(range(ndim))
    given = (axis,) if isinstance(axis, (int, np.integer)) else tuple(axis)
    for entry in given:
        if not -ndim <= entry < ndim:
            raise NumericsError(
                f"axis={axis}, but the tensor has {ndim} dimensions"
                + ("; give axis=None" if ndim == 0 else "")
            )
    counted = tuple(int(entry) % ndim for entry in given)
    if len(set(counted)) != len(counted):
        raise NumericsError(f"axis={axis} names a dimension twice")
    return counted


def _whole(shape: tuple[int, ...], axes: tuple[int, ...]) -> Grid:
    """One scale for each position of the axes that do not share."""
    scales_shape = tuple(1 if i in axes else n for i, n in enumerate(shape))
    shared = sorted(axes)
    together = shared == list(range(shared[0], shared[-1] + 1)) if shared else True
    if not together:
        kept = [i for i in range(len(shape)) if i not in axes]
        order = (*kept, *shared)
        rows = math.prod(shape[i] for i in kept)
        view = (1, rows, math.prod(shape[i] for i in shared))
        return Grid(shape, order, view, 1, max(view[2], 1), scales_shape)
    order = tuple(range(len(shape)))
    first, last = (shared[0], shared[-1] + 1) if shared else (len(shape), len(shape))
    outer = math.prod(shape[:first])
    length = math.prod(shape[first:last])
    inner = math.prod(shape[last:])
    if inner == 1:
        return Grid(shape, order, (1, outer, length), 1, max(length, 1), scales_shape)
    return Grid(shape, order, (outer, length, inner), max(length, 1), 1, scales_shape)


def _runs(shape: tuple[int, ...], axis: int, block: int) -> Grid:
    size = shape[axis]
    scales_shape = list(shape)
    scales_shape[axis] = -(-size // block)
    block = min(block, max(size, 1))
    order = tuple(range(len(shape)))
    outer, inner = math.prod(shape[:axis]), math.prod(shape[axis + 1 :])
    if inner == 1:
        return Grid(shape, order, (1, outer, size), 1, block, tuple(scales_shape))
    return Grid(shape, order, (outer, size, inner), block, 1, tuple(scales_shape))


def _boxes(
    shape: tuple[int, ...], axis: Axis, axes: tuple[int, ...], block: tuple[int, int]
) -> Grid:
    ndim = len(shape)
    if len(block) != 2 or min(block) < 1:
        raise NumericsError(f"block={block!r}, but should be two positive sizes")
    if axis == -1 or axis == ndim - 1:
        axes = (ndim - 2, ndim - 1)
    if ndim < 2 or len(axes) != 2:
        raise NumericsError(f"block={block!r} needs two axes, but axis={axis}")
    order = (*(i for i in range(ndim) if i not in axes), *axes)
    rows, columns = shape[axes[0]], shape[axes[1]]
    scales_shape = list(shape)
    scales_shape[axes[0]] = -(-rows // block[0])
    scales_shape[axes[1]] = -(-columns // block[1])
    outer = math.prod(shape[i] for i in order[:-2])
    return Grid(
        shape,
        order,
        (outer, rows, columns),
        min(block[0], max(rows, 1)),
        min(block[1], max(columns, 1)),
        tuple(scales_shape),
    )
