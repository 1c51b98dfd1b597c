"""Defects of a whole runtime: what it remembers, swaps or leaves out between calls."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from typing import Any, Protocol

import numpy as np

from harness.defects.types import Defect, Parameter, Severity
from harness.errors import UnsupportedError

Array = np.ndarray[Any, np.dtype[Any]]
Arrays = Mapping[str, Array]


class Behaviour(Protocol):
    """A runtime gone wrong: what it makes of the inputs, and of the outputs."""

    def before(self, inputs: Arrays) -> Arrays:
        """What the model is really given."""
        ...

    def after(self, outputs: Arrays) -> Arrays:
        """What the caller is really given."""
        ...


class _Faithful:
    """Changes nothing; the others change one side."""

    def __init__(self, strength: float, seed: int) -> None:
        self.strength = strength
        self.rng = np.random.default_rng(seed)
        self.calls = 0
        self.last: dict[str, Array] = {}

    def before(self, inputs: Arrays) -> Arrays:
        return inputs

    def after(self, outputs: Arrays) -> Arrays:
        return outputs


class _Stale(_Faithful):
    """Gives the call before's output where it has the right shape."""

    def after(self, outputs: Arrays) -> Arrays:
        found = {
            name: self.last[name]
            if name in self.last and self.last[name].shape == array.shape
            else array
            for name, array in outputs.items()
        }
        self.last = {name: np.array(array) for name, array in outputs.items()}
        return found


class _Exchanged(_Faithful):
    """The first two entries of a batch change places."""

    def after(self, outputs: Arrays) -> Arrays:
        return {name: _exchange(array) for name, array in outputs.items()}


def _exchange(array: Array) -> Array:
    if array.ndim < 2 or array.shape[0] < 2:
        return array
    order = np.arange(array.shape[0])
    order[:2] = 1, 0
    return array[order]


class _LastEntry(_Faithful):
    """The last entry of a batch of several is zero."""

    def after(self, outputs: Arrays) -> Arrays:
        found = {}
        for name, array in outputs.items():
            copy = np.array(array)
            if copy.ndim > 1 and copy.shape[0] > 1:
                copy[-1] = 0
            found[name] = copy
        return found


class _FirstToken(_Faithful):
    """The first token is replaced by the second: no start token."""

    def before(self, inputs: Arrays) -> Arrays:
        tokens = {
            name: array
            for name, array in inputs.items()
            if name.endswith("ids") and array.dtype.kind in "iu" and array.ndim == 2
        }
        if not tokens:
            raise UnsupportedError(
                "first_token_missing fits nowhere: the model takes no tokens (its "
                f"inputs are {', '.join(inputs)})"
            )
        found = dict(inputs)
        for name, array in tokens.items():
            if array.shape[1] > 1:
                found[name] = np.concatenate([array[:, 1:2], array[:, 1:]], axis=1)
        return found


class _Intermittent(_Faithful):
    """In some calls one entry of the output is off."""

    def after(self, outputs: Arrays) -> Arrays:
        if self.rng.random() >= self.strength:
            return outputs
        found = {}
        for name, array in outputs.items():
            copy = np.array(array)
            if copy.dtype.kind == "f" and copy.size:
                row = copy.reshape(-1, copy.shape[-1])
                row[self.rng.integers(row.shape[0])] *= 1.5
            found[name] = copy
        return found


class _Reused(_Faithful):
    """Outputs live in one buffer: the next call writes over them."""

    def after(self, outputs: Arrays) -> Arrays:
        found = {}
        for name, array in outputs.items():
            buffer = self.last.get(name)
            if buffer is None or buffer.shape != array.shape:
                buffer = np.array(array)
                self.last[name] = buffer
            else:
                buffer[...] = array
            found[name] = buffer
        return found


class PlantedSession:
    """A session whose runtime has a defect; captured operators are left as they are."""

    def __init__(self, session: Any, behaviour: Behaviour) -> None:
        self._session = session
        self._behaviour = behaviour

    def __getattr__(self, name: str) -> Any:
        return getattr(self._session, name)

    def run(self, inputs: Arrays, *, capture: Collection[str] = ()) -> Arrays:
        """Run once, wrongly."""
        from harness.backends.protocol import Outputs

        given = self._behaviour.before(inputs)
        outputs = self._session.run(given, capture=capture)
        hidden = {*capture, *(f"{name}/input" for name in capture)}
        kept = {name: a for name, a in outputs.items() if name in hidden}
        shown = {name: a for name, a in outputs.items() if name not in hidden}
        timings = getattr(outputs, "timings", {})
        return Outputs({**self._behaviour.after(shown), **kept}, timings)

    def close(self) -> None:
        """Free what the session holds."""
        self._session.close()


_THERE = Parameter(name="there or not", low=1, catalogue=1, high=1)


def _defect(  # noqa: PLR0917 - a table's columns
    name: str,
    summary: str,
    severity: Severity,
    links: str,
    change: Callable[[float, int], Behaviour],
    parameter: Parameter = _THERE,
) -> Defect:
    return Defect(
        name=name,
        summary=summary,
        place="runtime",
        severity=severity,
        links=tuple(links.split()),
        change=change,
        parameter=parameter,
    )


RUNTIME = (
    _defect(
        "stale_output",
        "gives the output of the call before",
        "conditional",
        "flashinfer-ai/flashinfer#3057 ROCm/aiter#2358",
        _Stale,
    ),
    _defect(
        "batch_entries_exchanged",
        "the first two entries of a batch change places",
        "conditional",
        "flashinfer-ai/flashinfer#3604",
        _Exchanged,
    ),
    _defect(
        "last_batch_entry_zero",
        "the last entry of a batch is never written",
        "conditional",
        "huggingface/transformers#32868",
        _LastEntry,
    ),
    _defect(
        "first_token_missing",
        "the start token is left out",
        "visible",
        "EleutherAI/lm-evaluation-harness#2676 tenstorrent/tt-metal#48444",
        _FirstToken,
    ),
    _defect(
        "intermittent_row",
        "in some calls one row is half as large again",
        "conditional",
        "flashinfer-ai/flashinfer#4396 lablup/mlxcel#910",
        _Intermittent,
        Parameter(name="chance of a call", low=0.02, catalogue=0.25, high=1.0),
    ),
    _defect(
        "buffer_reused",
        "the next call writes over the outputs of the last",
        "conditional",
        "vllm-project/vllm#45835",
        _Reused,
    ),
)
