"""The product that an operator is, in NumPy, in the dtype of its arguments."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np

from harness.models.types import Operator

Array = np.ndarray[Any, np.dtype[Any]]


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
    """One product a kernel position: no copy of overlapping windows is ever made."""
    spatial = weight.ndim - 2
    padded = np.pad(x, [(0, 0), (0, 0), *operator.padding])
    kernel = weight.shape[2:]
    sizes = [
        (padded.shape[2 + i] - operator.dilation[i] * (kernel[i] - 1) - 1)
        // operator.stride[i]
        + 1
        for i in range(spatial)
    ]
    groups, out = operator.groups, weight.shape[0]
    batch, channels = x.shape[:2]
    columns = int(np.prod(sizes))
    grouped = weight.reshape(groups, out // groups, channels // groups, *kernel)
    result = np.zeros((batch, groups, out // groups, columns), dtype=x.dtype)
    for position in itertools.product(*(range(size) for size in kernel)):
        window: tuple[slice, ...] = tuple(
            slice(
                position[i] * operator.dilation[i],
                position[i] * operator.dilation[i]
                + (sizes[i] - 1) * operator.stride[i]
                + 1,
                operator.stride[i],
            )
            for i in range(spatial)
        )
        part = padded[(slice(None), slice(None), *window)]
        part = part.reshape(batch, groups, channels // groups, columns)
        at: tuple[Any, ...] = (..., *position)
        taps = grouped[at]
        if channels == groups:
            result += taps[None] * part
        else:
            result += np.matmul(taps[None], part)
    whole: Array = result.reshape(batch, out, *sizes)
    return whole


def add_bias(operator: Operator, y: Array) -> Array:
    """The bias added along the output channels, if there is one."""
    if operator.bias is None:
        return y
    bias = operator.bias.astype(y.dtype)
    if operator.kind == "conv":
        bias = bias.reshape(1, -1, *([1] * (operator.weight.ndim - 2)))
    result: Array = y + bias
    return result
