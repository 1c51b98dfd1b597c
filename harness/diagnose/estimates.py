"""Candidates with fitted numbers: ratios, offsets, another weight."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Final

import numpy as np

from harness.diagnose.observation import Observation
from harness.diagnose.types import ANOTHER_WEIGHT
from harness.models.types import Operator
from harness.numerics import FORMATS, Quantized
from harness.schemes.ambiguity import as_rows
from harness.schemes.linear_algebra import add_bias

Array = np.ndarray[Any, np.dtype[Any]]
#: Name, detail, numbers fitted, and the outputs of every call.
Named = tuple[str, str, int, Callable[[], Sequence[Array]]]

#: Equations for every unknown of an estimated weight: a fit to noise shows then.
_EQUATIONS: Final = 1.25
#: Rows by which channels are told apart, and the share of them that must be matched
#: with channels of their own for it to be an order.
_ROWS: Final = 8
_DISTINCT: Final = 0.9
#: Share of the drift that the weight may leave which the outputs were made with.
_MADE: Final = 0.02


def candidates(seen: Observation, masks: Sequence[Array]) -> Iterator[Named]:
    """What a few fitted numbers explain, on the elements where the masks hold."""
    parts = [
        (exact - _bias(seen, exact), call.y - _bias(seen, exact), mask)
        for call, exact, mask in zip(seen.calls, seen.exact, masks, strict=True)
    ]
    if not all(np.isfinite(y).all() for _, y, _ in parts):
        return
    yield from _ratios(seen, parts)
    yield from _exchanged(seen, parts)
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
    if seen.operator.bias is not None:
        yield _with_bias_ratio(seen, parts)
    by_channel = _by_axis(parts, axis)
    words = (
        f"the product times a number of each channel, {by_channel.min():.4g} to "
        f"{by_channel.max():.4g}"
    )
    shape = [1] * parts[0][0].ndim
    shape[axis] = -1

    def channels() -> Sequence[Array]:
        return [e * by_channel.reshape(shape) + _bias(seen, e) for e, _, _ in parts]

    if by_channel.size > 1 and _determined(by_channel.size, parts):
        yield "ratio by channel", words, by_channel.size, channels
    offsets = _offsets(parts, axis)

    def offset() -> Sequence[Array]:
        return [e + offsets.reshape(shape) + _bias(seen, e) for e, _, _ in parts]

    words = f"a constant of each channel is added, up to {np.abs(offsets).max():.4g}"
    if _determined(offsets.size, parts):
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
    if _determined(count, parts):
        yield "ratio by row", "every row of the product times a number", count, rows


def _exchanged(
    seen: Observation, parts: Sequence[tuple[Array, Array, Array]]
) -> Iterator[Named]:
    """Output channels that hold another's right product: told by few rows already."""
    axis = -1 if seen.operator.kind == "linear" else 1
    right, shown = [], []
    for e, y, m in parts:
        rows = as_rows(seen.operator, np.broadcast_to(m, e.shape)).any(axis=-1)
        right.append(as_rows(seen.operator, e)[rows])
        shown.append(as_rows(seen.operator, y)[rows])
    mine, theirs = np.concatenate(right).T, np.concatenate(shown).T
    order = _match(theirs, mine)
    moved = int((order != np.arange(order.size)).sum())
    if mine.shape[1] < _ROWS or not moved:
        return
    if np.unique(order).size < _DISTINCT * order.size:
        return
    words = f"{moved} of {order.size} have another's place"

    def reordered() -> Sequence[Array]:
        return [np.take(e, order, axis=axis) + _bias(seen, e) for e, _, _ in parts]

    yield "output channels permuted", words, moved, reordered


def _determined(fitted: int, parts: Sequence[tuple[Array, Array, Array]]) -> bool:
    """Whether there are elements enough for so many numbers to be wrong.

    A number of its own for every element explains anything.
    """
    elements = sum(int(np.broadcast_to(m, e.shape).sum()) for e, _, m in parts)
    return fitted * _EQUATIONS <= elements


def _with_bias_ratio(
    seen: Observation, parts: Sequence[tuple[Array, Array, Array]]
) -> Named:
    """The whole output times a number, the bias too."""
    whole = [(e + _bias(seen, e), y + _bias(seen, e), m) for e, y, m in parts]
    top = sum(float((e * y * m).sum()) for e, y, m in whole)
    bottom = sum(float((e * e * m).sum()) for e, _, m in whole)
    ratio = top / bottom if bottom else 1.0
    words = f"the output, bias included, times {ratio:.6g}"
    return "constant ratio", words, 1, lambda: [e * ratio for e, _, _ in whole]


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
    """The weight that the outputs were made with: the one that is shown, or a fit."""
    estimate = _held(seen)
    # A channel of a grouped convolution meets a part of the input only.
    if estimate is None and seen.operator.groups == 1:
        estimate = effective_weight(seen, masks)
    if estimate is None:
        return

    def predict(weight: Array) -> Callable[[], Sequence[Array]]:
        return lambda: [seen.output(x, weight) for x in seen.entries]

    if seen.stored is not None:
        yield from _by_group(seen, seen.stored, estimate, predict)
        yield from _by_code(seen.stored, estimate, predict)
    yield from _reordered(seen, estimate, predict)
    yield from _by_column(seen, estimate, predict)
    yield (
        ANOTHER_WEIGHT,
        "the weight is another one, and nothing that is known made it",
        estimate.size,
        predict(estimate),
    )


def _held(seen: Observation) -> Array | None:
    """float64 weight that the backend shows, where it makes the outputs; else None.

    A fit needs more rows than a short text has, and inputs that point everywhere.
    """
    if seen.shown is None or np.array_equal(seen.shown, seen.weight, equal_nan=True):
        return None
    found = np.asarray(seen.shown, np.float64)
    left = seen.drift([seen.output(x, found) for x in seen.entries])
    return found if left <= _MADE * seen.drift(seen.exact) else None


def effective_weight(seen: Observation, masks: Sequence[Array]) -> Array | None:
    """float64 weight that maps observed inputs to outputs; None: undetermined."""
    operator = seen.operator
    length = operator.reduction
    inputs, outputs = [], []
    for x, call, exact, mask in zip(
        seen.entries, seen.calls, seen.exact, masks, strict=True
    ):
        wide = unfold(operator, x, call.y.shape)
        plain = as_rows(operator, call.y - _bias(seen, exact))
        everywhere = as_rows(operator, np.broadcast_to(mask, call.y.shape))
        rows = everywhere.any(axis=-1)
        inputs.append(wide[rows])
        outputs.append(plain[rows])
    x = np.concatenate(inputs).astype(np.float64)
    y = np.concatenate(outputs)
    if x.shape[0] < _EQUATIONS * length or not np.isfinite(x).all():
        return None
    own = seen.weight.reshape(seen.weight.shape[0], -1).astype(np.float64)
    # The correction is what is estimated, so that directions that no input has keep
    # the weight they should have.
    values, vectors = np.linalg.eigh(x.T @ x)
    kept = values > values[-1] * 1e-9
    inverse = (vectors[:, kept] / values[kept]) @ vectors[:, kept].T
    correction = inverse @ (x.T @ (y - x @ own.T))
    found: Array = (own + correction.T).reshape(seen.weight.shape)
    return found


def unfold(operator: Operator, x: Array, y_shape: tuple[int, ...]) -> Array:
    """An input as the rows that meet the weight: (outputs, K)."""
    if operator.kind == "linear":
        return x.reshape(-1, x.shape[-1])
    padded = np.pad(x, [(0, 0), (0, 0), *operator.padding])
    kernel = operator.weight.shape[2:]
    columns = []
    for position in itertools.product(*(range(size) for size in kernel)):
        window: list[Any] = [slice(None), slice(None)]
        for i, offset in enumerate(position):
            start = offset * operator.dilation[i]
            stop = start + (y_shape[2 + i] - 1) * operator.stride[i] + 1
            window.append(slice(start, stop, operator.stride[i]))
        columns.append(padded[tuple(window)])
    # (N, C, *positions, taps) -> rows over samples and positions, C before the taps.
    stacked = np.moveaxis(np.stack(columns, axis=-1), 1, -2)
    found: Array = stacked.reshape(-1, operator.reduction)
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
        mine = np.nan_to_num(q.dequantize().astype(np.float64) / by)
    index, own = _nearest(grid, wanted), _nearest(grid, mine)
    moved = index != own
    if not moved.any():
        return
    steps = np.abs(index - own)[moved]
    words = (
        f"{int(moved.sum())} of {moved.size} codes differ, "
        f"{np.mean(steps == 1):.0%} of them by one step"
    )
    name = "codes off by one" if np.mean(steps == 1) > 0.9 else "codes wrong"
    yield name, words, int(moved.sum()), predict(grid[index] * by)


def _nearest(grid: Array, values: Array) -> Array:
    """Index of the nearest value of a sorted grid."""
    index = np.clip(np.searchsorted(grid, values), 1, grid.size - 1)
    lower = np.abs(values - grid[index - 1]) <= np.abs(grid[index] - values)
    return np.where(lower, index - 1, index)


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
        flat = mine.shape[0], -1
        order = _match(theirs.reshape(flat), mine.reshape(flat))
        moved = int((order != np.arange(order.size)).sum())
        if not moved or np.unique(order).size < _DISTINCT * order.size:
            continue
        weight = np.moveaxis(mine[order], 0, axis)
        words = f"{moved} of {order.size} have another's place"
        yield name, words, moved, predict(weight)


def _by_column(
    seen: Observation,
    estimate: Array,
    predict: Callable[[Array], Callable[[], Sequence[Array]]],
) -> Iterator[Named]:
    """Input channels, each times a number of its own."""
    others = tuple(i for i in range(estimate.ndim) if i != 1)
    mine = seen.weight.astype(np.float64)
    size = np.square(mine).sum(axis=others)
    ratio = (estimate * mine).sum(axis=others) / np.where(size > 0, size, 1)
    off = (np.abs(ratio - 1) > 1e-3) & (size > 0)
    if not off.any():
        return
    settled = np.where(off, ratio, 1.0)
    index = np.flatnonzero(off)
    words = (
        f"{index.size} of {off.size} input channels, {index[0]} to {index[-1]}, times "
        f"{settled[off].min():.4g} to {settled[off].max():.4g}"
    )
    shape = [1] * mine.ndim
    shape[1] = -1
    weight = mine * settled.reshape(shape)
    yield "ratio by input channel", words, index.size, predict(weight)


def _match(theirs: Array, mine: Array) -> Array:
    """For each vector the one of `mine` that points the same way."""

    def unit(v: Array) -> Array:
        norm = np.linalg.norm(v, axis=1, keepdims=True)
        found: Array = v / np.where(norm > 0, norm, 1)
        return found

    return np.asarray(np.argmax(unit(theirs) @ unit(mine).T, axis=1))
