"""Making a failing input small, while it still fails (delta debugging).

Zeller and Hildebrandt, "Simplifying and Isolating Failure-Inducing Input", IEEE TSE
28(2), 2002: chunks are left out from large to small, as long as what is left fails.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

Array = np.ndarray[Any, np.dtype[Any]]
Arrays = dict[str, Array]
#: Axes that have one length and are cut together: (input, axis) of each.
Group = Sequence[tuple[str, int]]


class Shrinker:
    """Tries smaller inputs, at most so many.

    Args:
        fails: whether an input still shows the failure; it must not change it.
        tries: most inputs that are tried.

    Attributes:
        tried: inputs tried so far.
    """

    def __init__(self, fails: Callable[[Arrays], bool], tries: int = 120) -> None:
        self._fails = fails
        self._left = tries
        self.tried = 0

    def shrink(self, inputs: Mapping[str, Array], groups: Sequence[Group]) -> Arrays:
        """Shorter along the groups' axes, then with plainer values.

        Args:
            inputs: one that fails.
            groups: what may be cut; batch entries, positions, steps.
        """
        found = dict(inputs)
        for group in groups:
            found = self._shorter(found, group)
        for name in found:
            found = self._plainer(found, name)
        return found

    def _try(self, candidate: Arrays) -> bool:
        if self._left <= 0:
            return False
        self._left -= 1
        self.tried += 1
        return self._fails(candidate)

    def _shorter(self, inputs: Arrays, group: Group) -> Arrays:
        name, axis = group[0]
        size = inputs[name].shape[axis] // 2
        while size >= 1:
            start = 0
            while start < inputs[name].shape[axis] and inputs[name].shape[axis] > size:
                gone = np.arange(start, min(start + size, inputs[name].shape[axis]))
                candidate = dict(inputs)
                for other, along in group:
                    candidate[other] = np.delete(inputs[other], gone, axis=along)
                if self._try(candidate):
                    inputs = candidate
                else:
                    start += size
                if self._left <= 0:
                    return inputs
            size //= 2
        return inputs

    def _plainer(self, inputs: Arrays, name: str) -> Arrays:
        """Chunks of one value; then floats of few bits."""
        array = inputs[name]
        if array.size == 0:
            return inputs
        plain = _plain(array)
        if not np.array_equal(array, np.full_like(array, plain)):
            inputs = self._filled(inputs, name, plain)
        if array.dtype.kind == "f":
            for digits in (0, 1, 2):
                rounded = np.round(inputs[name], digits)
                if np.array_equal(rounded, inputs[name]):
                    break
                candidate = {**inputs, name: rounded}
                if self._try(candidate):
                    return candidate
        return inputs

    def _filled(self, inputs: Arrays, name: str, plain: Any) -> Arrays:
        size = inputs[name].size
        while size >= max(1, inputs[name].size // 16):
            for start in range(0, inputs[name].size, size):
                flat = inputs[name].reshape(-1).copy()
                if (flat[start : start + size] == plain).all():
                    continue
                flat[start : start + size] = plain
                candidate = {**inputs, name: flat.reshape(inputs[name].shape)}
                if self._try(candidate):
                    inputs = candidate
                if self._left <= 0:
                    return inputs
            size //= 2
        return inputs


def _plain(array: Array) -> Any:
    """Zero for floats; for integers, which may be indices, the most frequent value."""
    if array.dtype.kind == "f":
        return array.dtype.type(0)
    return Counter(array.reshape(-1).tolist()).most_common(1)[0][0]
