"""Watches what lies between a target's quantized operators."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from harness.backends.protocol import Arithmetic, Session
from harness.compare.operator_evidence import PathEvidence
from harness.execution.cases_run import is_long, release_memory
from harness.execution.metamorphic import PIECE
from harness.models.types import Case, Model, Operator
from harness.schemes.between import (
    CalledTwiceError,
    GivenOutputs,
    product_error,
    step_error,
)
from harness.schemes.checkpoint import rounds_between
from harness.schemes.types import Scheme, TensorScheme

if TYPE_CHECKING:
    import torch

Array = np.ndarray[Any, np.dtype[Any]]

#: Calls that are looked at: the longest case, the shortest, a batch, and those that
#: add most tags.
_CALLS: Final = 6
#: Bytes of one call's captured operators, beyond which a call that could be watched an
#: operator at a time is not looked at.
_BYTES: Final = 400 * 2**20
#: The same of the one long prompt, without which nothing would be seen of what is wrong
#: from some position on.
_LONG_BYTES: Final = 3 * 2**29
#: The same of a prompt that is read in pieces, which comes on top.
_PIECES_BYTES: Final = 2**30
#: Operators whose inputs and outputs are held at once, at most.
_OPERATORS: Final = 512
#: How a prompt is read that is fed piece by piece through the cache.
IN_PIECES: Final = "in pieces"


@dataclass
class _Sums:
    before: str
    residual: float = 0.0
    noise: float = 0.0
    signal: float = 0.0
    elements: int = 0


class Paths:
    """Takes in whole captured calls; keeps sums alone.

    Args:
        model: what is under test.
        scheme: what the target is quantized with.
        operators: those that the scheme quantizes.
        arithmetic: what the backend declares.
        seed: of the errors that stand for a faithful backend's.
    """

    def __init__(
        self,
        model: Model,
        scheme: Scheme,
        operators: Sequence[Operator],
        arithmetic: Arithmetic,
        seed: int,
    ) -> None:
        self._model = model
        self._scheme = scheme
        self._operators = {operator.name: operator for operator in operators}
        self._step = step_error(arithmetic.operands, arithmetic.output)
        self._products = arithmetic.products
        self._seed = seed
        self._calls = 0
        self._given: GivenOutputs | None = None
        #: By the way the model was asked, and the path's end.
        self._sums: dict[tuple[str, str], _Sums] = {}
        #: Why nothing was looked at, if so.
        self.skipped = rounds_between(scheme)

    def wants(self, cases: Sequence[Case]) -> bool:
        """Whether the captured call of these cases should be handed to `add`."""
        if len(self._operators) > _OPERATORS:
            self.skipped = f"{len(self._operators)} operators are too many to hold"
        if self.skipped or self._calls >= _CALLS:
            return False
        return self._bytes(cases) <= _BYTES

    def long(self, cases: Sequence[Case]) -> list[Case]:
        """The longest of the long prompts that can be held; at most one."""
        return self._longest([c for c in cases if is_long(c)], _LONG_BYTES)

    def _longest(self, cases: Sequence[Case], room: int) -> list[Case]:
        """The one with most tokens, of those whose operators take so many bytes."""
        fitting = [
            case
            for case in cases
            if "positions" in case.inputs and self._bytes([case]) <= room
        ]
        if self.skipped or len(self._operators) > _OPERATORS:
            return []
        return sorted(fitting, key=lambda case: case.inputs["input_ids"].size)[-1:]

    def in_pieces(self, session: Session, cases: Sequence[Case]) -> None:
        """Watch the longest prompt that can be held being read through a cache.

        What attention makes of keys and values that were kept is seen nowhere else, and
        what goes wrong with each of them adds up over many.
        """
        if not self._operators or not getattr(session, "watches_pieces", False):
            return
        for case in self._longest(cases, _PIECES_BYTES):
            release_memory()
            size = max(1, min(PIECE, case.inputs["input_ids"].size // 2))
            ask: Any = session.run_in_pieces  # type: ignore[attr-defined]
            found = ask(case.inputs, size, capture=list(self._operators))
            self.add(case.inputs, found, way=IN_PIECES)

    def _bytes(self, cases: Sequence[Case]) -> int:
        tokens: int = sum(
            case.inputs["input_ids"].size
            for case in cases
            if "positions" in case.inputs
        )
        widths = sum(sum(o.weight.shape[:2]) for o in self._operators.values())
        return 4 * tokens * widths

    def add(
        self,
        inputs: Mapping[str, Array],
        outputs: Mapping[str, Array],
        *,
        way: str = "",
    ) -> None:
        """One call: what went in, what came out, and what was captured.

        Args:
            inputs: of the model.
            outputs: its own, and `NAME` and `NAME/input` of the operators.
            way: how the model was asked; each way is judged by itself.
        """
        if self.skipped:
            return
        missing = [name for name in self._operators if name not in outputs]
        if missing:
            # What an operator that is not shown does would look like a fault of a path.
            self.skipped = f"{len(missing)} of {len(self._operators)} are not shown"
            return
        placed = _Placed(inputs)
        observed = {
            name: placed.of_all(np.asarray(outputs[name])) for name in self._operators
        }
        if placed.unknown:
            return
        self._calls += 1
        try:
            if self._given is None:
                rounding = _rounding(self._scheme.kv_cache, self._products)
                self._given = GivenOutputs(self._model, list(observed), rounding)
            arrived, given = self._given.run(inputs, observed)
            moved, ended = self._given.run(
                inputs,
                observed,
                step=self._step,
                products=product_error(self._products),
                seed=self._seed + self._calls,
            )
        except CalledTwiceError as error:
            self.skipped = f"{error} runs more than once a call"
            return
        except (RuntimeError, TypeError) as error:
            self.skipped = f"the model does not run on what was shown: {error}"
            return
        last, x, before = "", None, ""
        for name, expected in arrived.items():
            # Operators that read the same tensor stand side by side.
            if x is None or not np.shares_memory(x, expected):
                before = last
            found = np.asarray(outputs[f"{name}/input"])
            both = placed.shown(expected, found), placed.shown(moved[name], found)
            self._compare((way, name), before, found, *both)
            last, x = name, expected
        before = last
        for name, expected in given.items():
            if name in outputs and expected.dtype.kind == "f":
                end = f"output {name}"
                self._compare((way, end), before, outputs[name], expected, ended[name])

    def _compare(
        self,
        key: tuple[str, str],
        before: str,
        found: Array,
        expected: Array,
        moved: Array,
    ) -> None:
        if self.skipped:
            return
        sums = self._sums.setdefault(key, _Sums(before))
        if np.size(found) != expected.size:
            sums.residual = float("inf")
            return
        observed = np.asarray(found, dtype=np.float64).reshape(expected.shape)
        # Where what was given leads to no number, it is the operator's fault.
        usable = np.isfinite(expected)
        expected, moved, observed = expected[usable], moved[usable], observed[usable]
        sums.elements += expected.size
        sums.signal += float(np.square(expected).sum())
        sums.noise += float(np.square(moved - expected).sum())
        if not np.isfinite(sums.noise):
            # It would explain anything.
            self.skipped = f"last-bit errors lead to NaN or Inf at {key[1]}"
            return
        if not np.isfinite(observed).all():
            sums.residual = float("inf")
            return
        sums.residual += float(np.square(observed - expected).sum())

    def result(self) -> tuple[PathEvidence, ...]:
        """What was seen, in order of execution; nothing where it was `skipped`."""
        if self.skipped:
            return ()
        found = self._sums.values()
        share = 0.0
        if self._scheme.kv_cache is not None:
            # Whether a key or value on the edge gets the other code is chance: what
            # flips add is known of all paths together, not of one.
            signal = sum(sums.signal for sums in found)
            share = sum(sums.noise for sums in found) / signal if signal else 0.0
        return tuple(
            PathEvidence(
                before=sums.before,
                after=name,
                residual_sq=sums.residual,
                noise_sq=max(sums.noise, share * sums.signal),
                signal_sq=sums.signal,
                elements=sums.elements,
                way=way,
            )
            for (way, name), sums in self._sums.items()
            if sums.elements or sums.residual
        )


class _Placed:
    """Where the rows belong that an engine shows without the axis of the batch.

    It computes those rows of its last layers alone that logits are wanted of.

    Args:
        inputs: of the call.
    """

    def __init__(self, inputs: Mapping[str, Array]) -> None:
        self._tokens = 0
        if "positions" in inputs:
            rows, self._tokens = inputs["input_ids"].shape
            self._wanted = np.unique(inputs["positions"])
            self._alone = rows == 1
        #: Whether rows were shown whose places nobody knows.
        self.unknown = False

    def of_all(self, array: Array) -> Array:
        """(batch, tokens, width); NaN for tokens that it was not computed for."""
        if not self._tokens or array.ndim != 2:
            return array
        if not self._alone:
            # An engine may take rows of a batch in an order of its own.
            self.unknown = True
            return array
        if len(array) == self._tokens:
            return array[None]
        if len(array) != len(self._wanted):
            return array
        found = np.full((1, self._tokens, array.shape[1]), np.nan, array.dtype)
        found[:, self._wanted] = array
        return found

    def shown(self, expected: Array, found: Array) -> Array:
        """The part of what was expected that was shown."""
        few = self._tokens and found.ndim == 2 and len(found) == len(self._wanted)
        return expected[:, self._wanted] if few else expected


def _rounding(
    cache: TensorScheme | None, products: str
) -> Callable[[torch.Tensor], torch.Tensor] | None:
    """What keys and values become, by `numerics`; None: they are left alone."""
    import torch

    if cache is None:
        kept = {"fp16": torch.float16, "bf16": torch.bfloat16}.get(products)
        return None if kept is None else lambda x: x.to(kept).to(x.dtype)
    from harness.backends.torch_kv import exact_rounding

    def rounding(x: torch.Tensor) -> torch.Tensor:
        rounded = exact_rounding(x.to(torch.float32).numpy(), cache)
        return torch.from_numpy(rounded).to(x.dtype)

    return rounding
