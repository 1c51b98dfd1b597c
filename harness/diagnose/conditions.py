"""Where in its outputs an operator is wrong: entries, positions, lengths, channels."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from harness.diagnose.observation import Observation

Array = np.ndarray[Any, np.dtype[Any]]


@dataclass(frozen=True, eq=False)
class Condition:
    """A rule that says which elements are wrong, and the elements."""

    #: "batch entries from 1 on"; "" for everywhere.
    words: str
    #: One boolean array a call, broadcastable to its output.
    masks: tuple[Array, ...]


def wrong_elements(seen: Observation) -> tuple[Array, ...]:
    """Elements that a faithful backend cannot be so far off at, one array a call."""
    found = []
    for call, exact in zip(seen.calls, seen.exact, strict=True):
        scale = float(np.abs(exact).max(initial=0.0)) or 1.0
        with np.errstate(invalid="ignore"):
            off: Array = (
                np.abs(call.y.astype(np.float64) - exact) > seen.tolerance * scale
            )
        found.append(off | (np.isfinite(call.y) != np.isfinite(exact)))
    return tuple(found)


def conditions(seen: Observation) -> list[Condition]:
    """Rules that agree with which rows and channels are wrong; everywhere comes last.

    A rule is kept when no wrong element lies outside of it and there is a right row
    (or channel, or call) outside of it: then it says something.
    """
    wrong = wrong_elements(seen)
    found = [
        rule
        for rule in (
            _length(seen, wrong),
            _batch(seen, wrong),
            _positions(seen, wrong),
            _magnitude(seen, wrong),
            _calls(seen, wrong),
            _channels(seen, wrong),
            _rows(seen, wrong),
        )
        if rule is not None
    ]
    everywhere = tuple(np.ones((1,) * w.ndim, bool) for w in wrong)
    return [*found, Condition("", everywhere)]


def _row_axis(seen: Observation, array: Array) -> int | None:
    if array.ndim < 2:
        return None
    return array.ndim - 2 if seen.operator.kind == "linear" else array.ndim - 1


def _any_but(array: Array, axis: int) -> Array:
    others = tuple(i for i in range(array.ndim) if i != axis)
    found: Array = np.asarray(array.any(axis=others))
    return found


def _calls(seen: Observation, wrong: Sequence[Array]) -> Condition | None:
    """Some calls are wrong, others not a bit."""
    states = [bool(w.any()) for w in wrong]
    if all(states) or not any(states):
        return None
    first = states.index(True)
    words = f"in {sum(states)} of {len(states)} calls"
    if all(states[first:]):
        index = seen.calls[first].index
        words = f"from call {index + 1} on"
    masks = tuple(np.full((1,) * w.ndim, s) for w, s in zip(wrong, states, strict=True))
    return Condition(words, masks)


def _length(seen: Observation, wrong: Sequence[Array]) -> Condition | None:
    """Only inputs of a certain length on."""
    sizes = []
    for w in wrong:
        axis = _row_axis(seen, w)
        sizes.append(1 if axis is None else w.shape[axis])
    states = [bool(w.any()) for w in wrong]
    if all(states) or not any(states) or len(set(sizes)) < 2:
        return None
    least = min(n for n, s in zip(sizes, states, strict=True) if s)
    most = max((n for n, s in zip(sizes, states, strict=True) if not s), default=0)
    if most >= least:
        return None
    masks = tuple(
        np.full((1,) * w.ndim, n >= least) for w, n in zip(wrong, sizes, strict=True)
    )
    return Condition(f"for inputs of {least} positions and more (not of {most})", masks)


def _from_index(
    seen: Observation, wrong: Sequence[Array], axis_of: Any, words: str
) -> Condition | None:
    """Wrong from some index along an axis on, right before it."""
    least, right = None, False
    for w in wrong:
        axis = axis_of(w)
        if axis is None:
            continue
        hit = np.flatnonzero(_any_but(w, axis))
        if hit.size:
            least = int(hit[0]) if least is None else min(least, int(hit[0]))
    if not least:
        return None
    masks = []
    for w in wrong:
        axis = axis_of(w)
        if axis is None:
            masks.append(np.zeros((1,) * w.ndim, bool))
            continue
        shape = [1] * w.ndim
        shape[axis] = w.shape[axis]
        masks.append((np.arange(w.shape[axis]) >= least).reshape(shape))
        after = _any_but(w, axis)[least:]
        right |= bool(after.size) and not bool(after.mean() > 0.5)
    del seen
    return None if right else Condition(words.format(least), tuple(masks))


def _batch(seen: Observation, wrong: Sequence[Array]) -> Condition | None:
    def axis_of(w: Array) -> int | None:
        return 0 if w.ndim > 2 or seen.operator.kind == "conv" else None

    return _from_index(seen, wrong, axis_of, "for batch entries from {} on")


def _positions(seen: Observation, wrong: Sequence[Array]) -> Condition | None:
    return _from_index(seen, wrong, lambda w: _row_axis(seen, w), "from position {} on")


def _magnitude(seen: Observation, wrong: Sequence[Array]) -> Condition | None:
    """Rows whose inputs are larger than those of all right rows."""
    if seen.operator.kind != "linear":
        return None
    bad, good = [], []
    for call, w in zip(seen.calls, wrong, strict=True):
        size = np.abs(call.x).max(axis=-1)
        hit = w.any(axis=-1)
        bad.append(size[hit])
        good.append(size[~hit])
    wrong_sizes, right_sizes = np.concatenate(bad), np.concatenate(good)
    if not wrong_sizes.size or not right_sizes.size:
        return None
    least = float(wrong_sizes.min())
    if least <= float(right_sizes.max()):
        return None
    masks = tuple(
        (np.abs(call.x).max(axis=-1) >= least)[..., None] for call in seen.calls
    )
    words = f"for rows whose largest input is at least {least:.4g}"
    return Condition(words, masks)


def _channels(seen: Observation, wrong: Sequence[Array]) -> Condition | None:
    """Some output channels, all others right."""
    axis = -1 if seen.operator.kind == "linear" else 1
    hit = np.zeros(seen.operator.weight.shape[0], bool)
    for w in wrong:
        hit |= _any_but(w, axis % w.ndim)
    if hit.all() or not hit.any():
        return None
    index = np.flatnonzero(hit)
    words = f"in {index.size} of {hit.size} output channels"
    if index.size == index[-1] - index[0] + 1:
        words = f"in output channels {index[0]} to {index[-1]} of {hit.size}"
    masks = []
    for w in wrong:
        shape = [1] * w.ndim
        shape[axis % w.ndim] = hit.size
        masks.append(hit.reshape(shape))
    return Condition(words, tuple(masks))


def _rows(seen: Observation, wrong: Sequence[Array]) -> Condition | None:
    """Some rows, without a rule of their own."""
    if seen.operator.kind != "linear":
        return None
    rows: list[Array] = [np.asarray(w.any(axis=-1)) for w in wrong]
    count = sum(int(r.sum()) for r in rows)
    total = sum(r.size for r in rows)
    if count in (0, total):
        return None
    return Condition(f"in {count} of {total} rows", tuple(r[..., None] for r in rows))
