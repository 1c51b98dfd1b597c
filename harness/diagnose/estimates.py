"""Candidates with numbers fitted to the observation: ratios, offsets, another weight."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, Final

import numpy as np

from harness.diagnose.observation import Observation
from harness.numerics import FORMATS, Quantized
from harness.schemes.linear_algebra import add_bias

Array = np.ndarray[Any, np.dtype[Any]]
#: Name, detail, numbers fitted, and the outputs of every call.
Named = tuple[str, str, int, Callable[[], Sequence[Array]]]

#: Equations for every unknown of an estimated weight: a fit to noise shows then.
_EQUATIONS: Final = 1.25


def candidates(seen: Observation, masks: Sequence[Array]) -> Iterator[Named]:
    """What a few fitted numbers explain, on the elements where the masks hold."""
    parts = [
        (exact - _bias(seen, exact), call.y - _bias(seen, exact), mask)
        for call, exact, mask in zip(seen.calls, seen.exact, masks, strict=True)
    ]
    if not all(np.isfinite(y).all() for _, y, _ in parts):
        return
    yield from _ratios(seen, parts)
    if seen.operator.kind == "linear":
        yield from _another_weight(seen, masks)


def _bias(seen: Observation, y: Array) -> Array:
    zero: Array = np.zeros_like(y)
    return add_bias(seen.operator, zero)


def _ratios(
    seen: Observation, parts: Sequence[tuple[Array, Array, Array]]
) -> Iterator[Named]:
    """The right product times a number: one, one a channel, one a row."""
    axis = -1 if seen.operator.kind == "linear" else 1
    top = sum(float((e * y * m).sum()) for e, y, m in parts)
    bottom = sum(float((e * e * m).sum()) for e, _, m in parts)
    ratio = top / bottom if bottom else 1.0

    def constant() -> Sequence[Array]:
        return [e * ratio + _bias(seen, e) for e, _, _ in parts]

    yield "constant ratio", f"the product times {ratio:.6g}", 1, constant
    by_channel = _by_axis(parts, axis)
    words = (
        f"the product times a number of each channel, {by_channel.min():.4g} to "
        f"{by_channel.max():.4g}"
    )
    shape = [1] * parts[0][0].ndim
    shape[axis] = -1

    def channels() -> Sequence[Array]:
        return [e * by_channel.reshape(shape) + _bias(seen, e) for e, _, _ in parts]

    yield "ratio by channel", words, by_channel.size, channels
    offsets = _offsets(parts, axis)

    def offset() -> Sequence[Array]:
        return [e + offsets.reshape(shape) + _bias(seen, e) for e, _, _ in parts]

    words = f"a constant of each channel is added, up to {np.abs(offsets).max():.4g}"
    yield "offset by channel", words, offsets.size, offset

    def rows() -> Sequence[Array]:
        found = []
        for e, y, _ in parts:
            over = axis if axis == -1 else tuple(range(1, e.ndim))
            size = np.square(e).sum(axis=over, keepdims=True)
            each = (e * y).sum(axis=over, keepdims=True) / np.where(size > 0, size, 1)
            found.append(e * each + _bias(seen, e))
        return found

    count = sum(e.size // e.shape[-1] for e, _, _ in parts)
    yield "ratio by row", "every row of the product times a number", count, rows


def _by_axis(parts: Sequence[tuple[Array, Array, Array]], axis: int) -> Array:
    top: Any = 0.0
    bottom: Any = 0.0
    for e, y, m in parts:
        others = tuple(i for i in range(e.ndim) if i != axis % e.ndim)
        top = top + (e * y * m).sum(axis=others)
        bottom = bottom + (e * e * m).sum(axis=others)
    found: Array = np.where(bottom > 0, top / np.where(bottom > 0, bottom, 1), 1.0)
    return found


def _offsets(parts: Sequence[tuple[Array, Array, Array]], axis: int) -> Array:
    total: Any = 0.0
    count: Any = 0.0
    for e, y, m in parts:
        others = tuple(i for i in range(e.ndim) if i != axis % e.ndim)
        total = total + ((y - e) * m).sum(axis=others)
        count = count + np.broadcast_to(m, e.shape).sum(axis=others)
    found: Array = total / np.maximum(count, 1)
    return found


def _another_weight(seen: Observation, masks: Sequence[Array]) -> Iterator[Named]:
    """The weight that the outputs were made with, by least squares."""
    estimate = effective_weight(seen, masks)
    if estimate is None:
        return

    def predict(weight: Array) -> Callable[[], Sequence[Array]]:
        return lambda: [seen.output(x, weight) for x in seen.entries]

    if seen.stored is not None:
        yield from _by_group(seen, seen.stored, estimate, predict)
        yield from _by_code(seen.stored, estimate, predict)
    yield from _reordered(seen, estimate, predict)
    yield (
        "another weight",
        "the weight is another one, and nothing that is known made it",
        estimate.size,
        predict(estimate),
    )


def effective_weight(seen: Observation, masks: Sequence[Array]) -> Array | None:
    """float64 (out, in) that maps observed inputs to outputs; None: undetermined."""
    length = seen.operator.weight.shape[1]
    inputs, outputs = [], []
    for x, call, exact, mask in zip(
        seen.entries, seen.calls, seen.exact, masks, strict=True
    ):
        rows = np.broadcast_to(mask.any(axis=-1), call.y.shape[:-1]).reshape(-1)
        inputs.append(x.reshape(-1, length)[rows])
        plain = (call.y - _bias(seen, exact)).reshape(-1, call.y.shape[-1])
        outputs.append(plain[rows])
    x = np.concatenate(inputs).astype(np.float64)
    y = np.concatenate(outputs)
    if x.shape[0] < _EQUATIONS * length or not np.isfinite(x).all():
        return None
    base = x @ seen.weight.astype(np.float64).T
    gram = x.T @ x
    # The correction is what is estimated, so that directions that no input has keep
    # the weight they should have.
    values, vectors = np.linalg.eigh(gram)
    kept = values > values[-1] * 1e-9
    inverse = (vectors[:, kept] / values[kept]) @ vectors[:, kept].T
    correction = inverse @ (x.T @ (y - base))
    found: Array = seen.weight + correction.T
    return found


def _by_group(
    seen: Observation,
    q: Quantized,
    estimate: Array,
    predict: Callable[[Array], Callable[[], Sequence[Array]]],
) -> Iterator[Named]:
    """Groups that share a scale, each times a number of its own."""
    view, mine = q.grid.to_view(estimate), q.grid.to_view(seen.weight.astype(float))
    outer, length, inner = view.shape
    tall, wide = q.grid.tall, q.grid.wide
    pads = [(0, 0), (0, -length % tall), (0, -inner % wide)]

    def total(values: Array) -> Array:
        padded = np.pad(values, pads)
        boxes = padded.reshape(outer, padded.shape[1] // tall, tall, -1, wide)
        found: Array = q.grid.scales_from_view(boxes.sum(axis=(2, 4)))
        return found

    size = total(mine * mine)
    ratios = np.where(size > 0, total(view * mine) / np.where(size > 0, size, 1), 1.0)
    off = np.abs(ratios - 1) > 1e-3
    if not off.any():
        return
    settled = np.where(off, ratios, 1.0)
    common = np.median(settled[off])
    same = np.abs(settled[off] / common - 1) < 0.01
    words = f"{int(off.sum())} of {off.size} scales are wrong, "
    words += (
        f"each times {common:.4g}"
        if same.mean() > 0.9
        else f"by factors of {settled[off].min():.4g} to {settled[off].max():.4g}"
    )
    name = "some scales wrong" if off.mean() < 0.5 else "ratio by block"
    weight = (mine_expanded(q, settled) * seen.weight).astype(np.float64)
    yield name, words, int(off.sum()), predict(weight)


def mine_expanded(q: Quantized, ratios: Array) -> Array:
    """A ratio of each group as one of each element."""
    return q.grid.expand(ratios.astype(np.float64))


def _by_code(
    q: Quantized,
    estimate: Array,
    predict: Callable[[Array], Callable[[], Sequence[Array]]],
) -> Iterator[Named]:
    """The estimate, where it lies on the grid of codes under the right scales."""
    by = q.expanded_scales().astype(np.float64)
    table = FORMATS[q.element].decoded.astype(np.float64)
    if table.size > 256:
        return
    grid = np.unique(table[np.isfinite(table)])
    with np.errstate(all="ignore"):
        wanted = np.nan_to_num(estimate / by)
    index = np.clip(np.searchsorted(grid, wanted), 1, grid.size - 1)
    lower = np.abs(wanted - grid[index - 1]) <= np.abs(grid[index] - wanted)
    index = np.where(lower, index - 1, index)
    own = np.searchsorted(grid, q.dequantize().astype(np.float64) / by - 1e-9)
    own = np.clip(own, 0, grid.size - 1)
    moved = index != own
    if not moved.any():
        return
    steps = np.abs(index - own)[moved]
    words = (
        f"{int(moved.sum())} of {moved.size} codes differ, {np.mean(steps == 1):.0%} of "
        "them by one step"
    )
    name = "codes off by one" if np.mean(steps == 1) > 0.9 else "codes wrong"
    yield name, words, int(moved.sum()), predict(grid[index] * by)


def _reordered(
    seen: Observation,
    estimate: Array,
    predict: Callable[[Array], Callable[[], Sequence[Array]]],
) -> Iterator[Named]:
    """Columns or rows of the right weight, matched to those of the estimate."""
    for axis, name in (
        (1, "columns permuted along K"),
        (0, "output channels permuted"),
    ):
        mine = np.moveaxis(seen.weight.astype(np.float64), axis, 0)
        theirs = np.moveaxis(estimate, axis, 0)
        order = _match(theirs, mine)
        moved = int((order != np.arange(order.size)).sum())
        if not moved or np.unique(order).size < 0.9 * order.size:
            continue
        weight = np.moveaxis(mine[order], 0, axis)
        words = f"{moved} of {order.size} have another's place"
        yield name, words, moved, predict(weight)


def _match(theirs: Array, mine: Array) -> Array:
    """For each vector the one of `mine` that points the same way."""

    def unit(v: Array) -> Array:
        norm = np.linalg.norm(v, axis=1, keepdims=True)
        found: Array = v / np.where(norm > 0, norm, 1)
        return found

    return np.asarray(np.argmax(unit(theirs) @ unit(mine).T, axis=1))
