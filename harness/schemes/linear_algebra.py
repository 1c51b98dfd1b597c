"""The product that an operator is, in NumPy, in the dtype of its arguments."""

from __future__ import annotations

import itertools
import math
from typing import Any, Final

import numpy as np

from harness.models.types import Operator

Array = np.ndarray[Any, np.dtype[Any]]

#: Numbers of overlapping windows that are copied at a time: they stay in the cache.
_PORTION: Final = 1 << 20


def product(operator: Operator, x: Array, weight: Array) -> Array:
    """`x @ weight.T`, or the convolution; without the bias.

    Args:
        operator: kind, stride, padding, dilation and groups.
        x: (..., K), or (N, C, *spatial).
        weight: (out, K), or (out, C / groups, *kernel).
    """
    if operator.kind == "linear":
        result: Array = x @ weight.T
        return result
    return _convolution(operator, x, weight)


def _convolution(operator: Operator, x: Array, weight: Array) -> Array:
    """One product a group, over portions of the windows: never all copied at once."""
    groups, out = operator.groups, weight.shape[0]
    rows = weight.reshape(groups, out // groups, -1)
    windows = _windows(operator, x, weight.shape[2:])
    spatial = weight.ndim - 2
    batch, _, *sizes = windows.shape[: 2 + spatial]
    # Channels and kernel come first, as in the weight: a column is a window.
    order = (1, *range(2 + spatial, 2 + 2 * spatial), 0, *range(2, 2 + spatial))
    line = rows.shape[2] * groups * math.prod(sizes[1:])
    lines = max(1, _PORTION // max(1, line))
    entries = max(1, lines // max(1, sizes[0]))
    result = np.empty((batch, out, *sizes), dtype=x.dtype)
    for entry, first in itertools.product(
        range(0, batch, entries), range(0, sizes[0], lines)
    ):
        part = windows[entry : entry + entries, :, first : first + lines]
        columns = part.transpose(order).reshape(*rows.shape[::2], -1)
        found = np.matmul(rows, columns)
        shape = out, part.shape[0], *part.shape[2 : 2 + spatial]
        result[entry : entry + entries, :, first : first + lines] = np.moveaxis(
            found.reshape(shape), 0, 1
        )
    return result


def _windows(operator: Operator, x: Array, kernel: tuple[int, ...]) -> Array:
    """A view, (N, C, *sizes, *kernel): what each output position is made of."""
    padded = np.pad(x, [(0, 0), (0, 0), *operator.padding])
    reach = [
        dilation * (size - 1) + 1
        for dilation, size in zip(operator.dilation, kernel, strict=True)
    ]
    axes = tuple(range(2, x.ndim))
    every = np.lib.stride_tricks.sliding_window_view(padded, reach, axis=axes)
    steps = (slice(None, None, step) for step in operator.stride)
    inner = (slice(None, None, step) for step in operator.dilation)
    windows: Array = every[(slice(None), slice(None), *steps, *inner)]
    return windows


def add_bias(operator: Operator, y: Array) -> Array:
    """The bias added along the output channels, if there is one."""
    if operator.bias is None:
        return y
    bias = operator.bias.astype(y.dtype)
    if operator.kind == "conv":
        bias = bias.reshape(1, -1, *([1] * (operator.weight.ndim - 2)))
    result: Array = y + bias
    return result
