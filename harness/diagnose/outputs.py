"""Candidate causes behind the product: bias, precision, tails, what is fused."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

import ml_dtypes
import numpy as np

from harness.diagnose.observation import Observation
from harness.schemes.linear_algebra import add_bias

Array = np.ndarray[Any, np.dtype[Any]]
#: Name, detail, numbers fitted, and the outputs of every call.
Named = tuple[str, str, int, Callable[[], Sequence[Array]]]


def candidates(seen: Observation) -> Iterator[Named]:
    """Everything that a known mistake would make of this operator's output."""
    axis = -1 if seen.operator.kind == "linear" else 1
    yield from _biases(seen)
    yield (
        "output zero",
        "the output is zero throughout",
        0,
        lambda: [np.zeros_like(e) for e in seen.exact],
    )
    yield from _precisions(seen)
    yield from _orders(seen, axis)
    yield (
        "activation applied",
        "negative outputs are zero",
        0,
        lambda: [np.maximum(e, 0) for e in seen.exact],
    )
    yield (
        "activation applied",
        "positive outputs are zero",
        0,
        lambda: [np.minimum(e, 0) for e in seen.exact],
    )
    yield from _tails(seen, axis)
    yield from _clipped(seen)
    yield from _overflows(seen)
    yield from _accumulators(seen)


def _overflows(seen: Observation) -> Iterator[Named]:
    """Outputs that are not finite, explained by what overflowed."""
    bad = [~np.isfinite(call.y) for call in seen.calls]
    if not any(b.any() for b in bad):
        return
    limit = _input_limit(seen, bad)
    if limit is not None:

        def inputs() -> Sequence[Array]:
            return [
                np.where(_beyond(seen, call.x, limit), np.nan, e)
                for call, e in zip(seen.calls, seen.exact, strict=True)
            ]

        words = f"inputs beyond {limit:.6g} overflow"
        yield "input overflows", words, 1, inputs
    sizes = [np.abs(e) for e in seen.exact]
    least = min(float(s[b].min()) for s, b in zip(sizes, bad, strict=True) if b.any())
    fine = max(float(s[~b].max(initial=0)) for s, b in zip(sizes, bad, strict=True))
    if least > fine:
        words = f"outputs beyond {least:.6g} are not finite"
        yield (
            "output overflows",
            words,
            1,
            lambda: [np.where(s >= least, np.nan, e) for s, e in _zip(sizes, seen)],
        )
    count = sum(int(b.sum()) for b in bad)
    yield (
        "output not finite",
        f"{count} outputs are NaN or Inf",
        count,
        lambda: [np.where(b, np.nan, e) for b, e in _zip(bad, seen)],
    )


def _zip(arrays: Sequence[Array], seen: Observation) -> Iterator[tuple[Array, Array]]:
    yield from zip(arrays, seen.exact, strict=True)


def _beyond(seen: Observation, x: Array, limit: float) -> Array:
    """Outputs that an input beyond the limit takes part in."""
    hit = (np.abs(x) > limit).astype(np.float64)
    ones = np.ones(seen.operator.weight.shape, np.float32)
    found: Array = seen.output(hit, ones, bias=False) > 0.5
    return found


def _input_limit(seen: Observation, bad: Sequence[Array]) -> float | None:
    """The limit whose overflows are the observed ones; None: there is none."""
    values = np.unique(np.concatenate([np.abs(c.x).ravel() for c in seen.calls]))
    wanted = sum(int(b.sum()) for b in bad)
    low, high = 0, values.size - 1
    while low < high:
        middle = (low + high) // 2
        count = sum(
            int(_beyond(seen, c.x, float(values[middle])).sum()) for c in seen.calls
        )
        low, high = (low, middle) if count <= wanted else (middle + 1, high)
    limit = float(values[low])
    same = all(
        np.array_equal(_beyond(seen, c.x, limit), b)
        for c, b in zip(seen.calls, bad, strict=True)
    )
    return limit if same else None


def _bias(seen: Observation, y: Array) -> Array:
    zero: Array = np.zeros_like(y)
    return add_bias(seen.operator, zero)


def _with_bias(seen: Observation, bias: Array) -> list[Array]:
    """The outputs with another bias."""
    return [exact - _bias(seen, exact) + bias for exact in seen.exact]


def _biases(seen: Observation) -> Iterator[Named]:
    bias = seen.operator.bias
    if bias is None or not np.any(bias):
        return

    def times(factor: float) -> Callable[[], Sequence[Array]]:
        return lambda: [e + factor * _bias(seen, e) for e in seen.exact]

    yield "bias missing", "the bias is not added", 0, times(-1)
    for count in (2, 3, 4, 8):
        yield "bias repeated", f"the bias is added {count} times", 0, times(count - 1)
    yield "bias of the wrong sign", "the bias is subtracted", 0, times(-2)
    size = bias.size
    orders = {f"shifted by {s}": np.roll(np.arange(size), s) for s in (1, -1, 8, 16)}
    orders["in reverse"] = np.arange(size)[::-1]
    for tile in (2, 4, 8, 16, 32, 64):
        if size % tile == 0 and size > tile:
            index = np.arange(size).reshape(-1, tile)
            orders[f"transposed in tiles of {tile}"] = index.T.reshape(-1)
    axis = -1 if seen.operator.kind == "linear" else 1

    def ordered(order: Array) -> Callable[[], Sequence[Array]]:
        def predict() -> Sequence[Array]:
            found = []
            for e in seen.exact:
                b = _bias(seen, e)
                found.append(e - b + np.take(b, order, axis=axis))
            return found

        return predict

    for words, order in orders.items():
        yield "bias permuted", f"the bias is {words}", 0, ordered(order)
    for other in seen.others:
        if other.bias is not None:
            shaped = other.bias.astype(np.float64)
            if axis == 1:
                shaped = shaped.reshape(1, -1, *(1,) * (seen.operator.weight.ndim - 2))
            yield (
                "another operator's bias",
                f"the bias is that of {other.name}",
                0,
                partial(_with_bias, seen, shaped),
            )


def _precisions(seen: Observation) -> Iterator[Named]:
    for dtype in (ml_dtypes.bfloat16, np.float16):
        name = np.dtype(dtype).name

        def stored(d: Any = dtype) -> Sequence[Array]:
            with np.errstate(over="ignore"):
                return [
                    e.astype(np.float32).astype(d).astype(np.float64)
                    for e in seen.exact
                ]

        def product(d: Any = dtype) -> Sequence[Array]:
            found = []
            with np.errstate(over="ignore"):
                for e in seen.exact:
                    bias = _bias(seen, e)
                    found.append((e - bias).astype(d).astype(np.float64) + bias)
            return found

        def operands(d: Any = dtype) -> Sequence[Array]:
            weight = seen.weight.astype(d).astype(np.float32)
            with np.errstate(over="ignore"):
                return [
                    seen.output(x.astype(d).astype(np.float32), weight)
                    for x in seen.entries
                ]

        yield "output of low precision", f"the output is stored in {name}", 0, stored
        yield (
            "output of low precision",
            f"the product is rounded to {name} before the bias",
            0,
            product,
        )
        yield (
            "operands of low precision",
            f"input and weight are rounded to {name}",
            0,
            operands,
        )


def _orders(seen: Observation, axis: int) -> Iterator[Named]:
    row = -2 if axis == -1 else -1

    def rolled(step: int, along: int) -> Callable[[], Sequence[Array]]:
        return lambda: [
            np.roll(e, step, axis=along) if e.ndim > 1 else e for e in seen.exact
        ]

    for step in (1, -1):
        yield (
            "rows shifted",
            f"every row has the result of the row {step} before",
            0,
            rolled(step, row),
        )
        yield (
            "output channels shifted",
            f"outputs, bias included, shifted by {step} channels",
            0,
            rolled(step, axis),
        )
        yield (
            "batch entries exchanged",
            f"results of the batch shifted by {step}",
            0,
            rolled(step, 0),
        )

    def flipped() -> Sequence[Array]:
        return [np.concatenate([e[1:2], e[:1], e[2:]]) for e in seen.exact]

    yield "batch entries exchanged", "the first two change places", 0, flipped


def _tails(seen: Observation, axis: int) -> Iterator[Named]:
    row = -2 if axis == -1 else -1
    out = seen.operator.weight.shape[0]

    def channels(count: int) -> Callable[[], Sequence[Array]]:
        def predict() -> Sequence[Array]:
            mask = np.arange(out) < out - count
            if axis == 1:
                mask = mask.reshape(1, -1, *(1,) * (seen.operator.weight.ndim - 2))
            return [e * mask for e in seen.exact]

        return predict

    for count in _zero_channels(seen, axis):
        yield (
            "output channels not computed",
            f"the last {count} output channels are zero",
            1,
            channels(count),
        )

    def rows(tile: int) -> Callable[[], Sequence[Array]]:
        def predict() -> Sequence[Array]:
            found = []
            for e in seen.exact:
                whole = e.shape[row] // tile * tile if e.ndim > 1 else 1
                shape = [1] * e.ndim
                if e.ndim > 1:
                    shape[row] = e.shape[row]
                    mask = (np.arange(e.shape[row]) < whole).reshape(shape)
                    found.append(e * mask)
                else:
                    found.append(e)
            return found

        return predict

    for tile in (2, 4, 8, 16, 32, 64, 128):
        yield (
            "rows not computed",
            f"rows that do not fill a tile of {tile} are zero",
            0,
            rows(tile),
        )


def _zero_channels(seen: Observation, axis: int) -> list[int]:
    """How many of the last channels are zero in every observed output."""
    count = None
    for call in seen.calls:
        flat = np.moveaxis(call.y, axis, 0)
        flat = flat.reshape(flat.shape[0], -1)
        alive = np.flatnonzero(np.abs(np.nan_to_num(flat, nan=1.0)).max(axis=1))
        zeros = flat.shape[0] - 1 - (int(alive[-1]) if alive.size else -1)
        count = zeros if count is None else min(count, zeros)
    return [count] if count else []


def _clipped(seen: Observation) -> Iterator[Named]:
    """The largest observed magnitude, where several elements share it."""
    tops = [float(np.nan_to_num(np.abs(c.y)).max(initial=0)) for c in seen.calls]
    top = max(tops)
    exact = max(float(np.abs(e).max(initial=0)) for e in seen.exact)

    def each() -> Sequence[Array]:
        return [np.clip(e, -t, t) for e, t in zip(seen.exact, tops, strict=True)]

    def all_calls() -> Sequence[Array]:
        return [np.clip(e, -top, top) for e in seen.exact]

    if top < exact:
        yield "output saturates", f"outputs are cut at {top:.4g}", 1, all_calls
        words = "outputs are cut at a limit that each call has of its own"
        yield "output saturates", words, len(tops), each


def _accumulators(seen: Observation) -> Iterator[Named]:
    """A running sum that keeps few bits of mantissa."""
    operator = seen.operator
    if operator.kind != "linear":
        return

    def summed(bits: int, step: int, *, cut: bool) -> Callable[[], Sequence[Array]]:
        def predict() -> Sequence[Array]:
            return [
                add_bias(operator, _short_sum(x, seen.weight, bits, step, cut=cut))
                for x in seen.entries
            ]

        return predict

    for bits in (14, 13, 12, 10, 16, 8, 7):
        for step in (32, 16, 64, 128):
            if operator.reduction > step:
                yield (
                    "accumulator too short",
                    f"the sum is cut to {bits} bits of mantissa every {step} products",
                    0,
                    summed(bits, step, cut=True),
                )


def _short_sum(x: Array, weight: Array, bits: int, step: int, *, cut: bool) -> Array:
    keep = np.uint32((0xFFFFFFFF << (23 - bits)) & 0xFFFFFFFF)
    total = np.zeros((*x.shape[:-1], weight.shape[0]), np.float32)
    for start in range(0, weight.shape[1], step):
        part = slice(start, start + step)
        total = total + x[..., part] @ weight[:, part].T
        if cut:
            total = (total.view(np.uint32) & keep).view(np.float32)
    found: Array = total.astype(np.float64)
    return found
