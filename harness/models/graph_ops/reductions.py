"""Operators that reduce axes, search along one, or normalise over some."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

import torch
import torch.nn.functional as F  # noqa: N812 - torch's own convention

from harness.models.graph_ops.common import Attributes, Op, T, axes_of, given, ints

Reduction = Callable[[T, list[int], bool], T]


def _reduce(function: Reduction, before: Callable[[T], T] = lambda t: t) -> Op:
    """An entry for a reduction; `before` is also what an empty list of axes does."""

    def reduce(x: Sequence[Any], a: Attributes, _: torch.dtype) -> T:
        axes = axes_of(x, a)
        if not axes:
            if a.get("noop_with_empty_axes", 0):
                return before(x[0])
            axes = list(range(x[0].ndim))
        result = function(before(x[0]), axes, bool(a.get("keepdims", 1)))
        return result if x[0].is_floating_point() else result.to(x[0].dtype)

    return reduce


def _product(t: T, axes: list[int], keep: bool) -> T:
    for axis in sorted((axis % t.ndim for axis in axes), reverse=True):
        t = t.prod(dim=axis, keepdim=keep)
    return t


def _mean(t: T, axes: list[int], keep: bool) -> T:
    if t.is_floating_point():
        return t.mean(dim=axes, keepdim=keep)
    return t.double().mean(dim=axes, keepdim=keep).trunc()


def _extreme(function: Any, empty: float) -> Reduction:
    def extreme(t: T, axes: list[int], keep: bool) -> T:
        if not t.numel():
            # The neutral element, which torch refuses to give.
            shape = t.sum(dim=axes, keepdim=keep).shape
            neutral = empty > 0 if t.dtype is torch.bool else empty
            return torch.full(shape, neutral, dtype=t.dtype, device=t.device)
        if t.dtype is torch.bool:
            return function(t.to(torch.uint8), dim=axes, keepdim=keep).bool()
        return function(t, dim=axes, keepdim=keep)

    return extreme


def _sum(t: T, axes: list[int], keep: bool) -> T:
    return t.sum(dim=axes, keepdim=keep)


def _norm(t: T, axes: list[int], keep: bool) -> T:
    return t.square().sum(dim=axes, keepdim=keep).sqrt()


def _log_sum(t: T, axes: list[int], keep: bool) -> T:
    return t.sum(dim=axes, keepdim=keep).log()


def _log_sum_exp(t: T, axes: list[int], keep: bool) -> T:
    return t.logsumexp(dim=axes, keepdim=keep)


def _search(function: Any) -> Op:
    """ArgMax and ArgMin: the first of equal values, or with an attribute the last."""

    def search(x: Sequence[Any], a: Attributes, _: torch.dtype) -> T:
        axis, keep = int(a.get("axis", 0)), bool(a.get("keepdims", 1))
        if not a.get("select_last_index", 0):
            return function(x[0], dim=axis, keepdim=keep)
        found: T = function(x[0].flip(axis), dim=axis, keepdim=keep)
        return x[0].shape[axis] - 1 - found

    return search


def _top_k(x: Sequence[Any], a: Attributes, _: torch.dtype) -> tuple[T, T]:
    """Of equal values the one with the lower index comes first."""
    axis, count = int(a.get("axis", -1)), ints(x[1])[0]
    largest = bool(a.get("largest", 1))
    values, indices = torch.sort(x[0], dim=axis, descending=largest, stable=True)
    return values.narrow(axis, 0, count), indices.narrow(axis, 0, count)


def _cumulative_sum(x: Sequence[Any], a: Attributes, _: torch.dtype) -> T:
    axis = ints(x[1])[0]
    data = x[0].flip(axis) if a.get("reverse", 0) else x[0]
    result = data.cumsum(axis, dtype=data.dtype)
    if a.get("exclusive", 0):
        result = result - data
    flipped: T = result.flip(axis) if a.get("reverse", 0) else result
    return flipped


def _batch_norm(x: Sequence[Any], a: Attributes, _: torch.dtype) -> T:
    return F.batch_norm(x[0], x[3], x[4], x[1], x[2], eps=float(a.get("epsilon", 1e-5)))


def _layer_norm(x: Sequence[Any], a: Attributes, _: torch.dtype) -> T | tuple[T, ...]:
    axis = int(a.get("axis", -1)) % x[0].ndim
    epsilon = float(a.get("epsilon", 1e-5))
    shape = list(x[0].shape[axis:])
    result = F.layer_norm(x[0], shape, x[1].expand(shape), None, epsilon)
    result = result if given(x, 2) is None else result + x[2]
    if a["_outputs"] == 1:
        return result
    dims = list(range(axis, x[0].ndim))
    mean = x[0].mean(dim=dims, keepdim=True)
    spread = (x[0] - mean).square().mean(dim=dims, keepdim=True)
    return result, mean, (spread + epsilon).rsqrt()


def _rms_norm(x: Sequence[Any], a: Attributes, _: torch.dtype) -> T:
    axis = int(a.get("axis", -1)) % x[0].ndim
    dims = list(range(axis, x[0].ndim))
    mean = x[0].square().mean(dim=dims, keepdim=True)
    result: T = x[0] * (mean + float(a.get("epsilon", 1e-5))).rsqrt() * x[1]
    return result


def _instance_norm(x: Sequence[Any], a: Attributes, _: torch.dtype) -> T:
    return F.instance_norm(
        x[0], weight=x[1], bias=x[2], eps=float(a.get("epsilon", 1e-5))
    )


def _group_norm(x: Sequence[Any], a: Attributes, _: torch.dtype) -> T:
    epsilon = float(a.get("epsilon", 1e-5))
    return F.group_norm(x[0], int(a["num_groups"]), x[1], x[2], epsilon)


def _lp_norm(x: Sequence[Any], a: Attributes, _: torch.dtype) -> T:
    """A vector of zeros stays zeros."""
    axis, p = int(a.get("axis", -1)), int(a.get("p", 2))
    norm = torch.linalg.vector_norm(x[0], ord=p, dim=axis, keepdim=True)
    return torch.where(norm == 0, torch.zeros_like(x[0]), x[0] / norm)


def _mean_variance_norm(x: Sequence[Any], a: Attributes, _: torch.dtype) -> T:
    axes = list(a.get("axes", [0, 2, 3]))
    mean = x[0].mean(dim=axes, keepdim=True)
    spread = (x[0] - mean).square().mean(dim=axes, keepdim=True)
    # The specification's own epsilon, added to the deviation, not to the variance.
    result: T = (x[0] - mean) / (spread.sqrt() + 1e-9)
    return result


def _along(function: Any) -> Op:
    return lambda x, a, _d: function(x[0], dim=int(a.get("axis", -1)))


REDUCTIONS: Final[Mapping[str, Op]] = {
    "ArgMax": _search(torch.argmax),
    "ArgMin": _search(torch.argmin),
    "BatchNormalization": _batch_norm,
    "CumSum": _cumulative_sum,
    "GroupNormalization": _group_norm,
    "InstanceNormalization": _instance_norm,
    "LayerNormalization": _layer_norm,
    "LogSoftmax": _along(torch.log_softmax),
    "LpNormalization": _lp_norm,
    "MeanVarianceNormalization": _mean_variance_norm,
    "RMSNormalization": _rms_norm,
    "ReduceL1": _reduce(_sum, torch.abs),
    "ReduceL2": _reduce(_norm),
    "ReduceLogSum": _reduce(_log_sum),
    "ReduceLogSumExp": _reduce(_log_sum_exp),
    "ReduceMax": _reduce(_extreme(torch.amax, float("-inf"))),
    "ReduceMean": _reduce(_mean),
    "ReduceMin": _reduce(_extreme(torch.amin, float("inf"))),
    "ReduceProd": _reduce(_product),
    "ReduceSum": _reduce(_sum),
    "ReduceSumSquare": _reduce(_sum, torch.square),
    "Softmax": _along(torch.softmax),
    "TopK": _top_k,
}
