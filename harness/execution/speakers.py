"""The targets of a suite as speakers: what `properties.language` asks."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from harness.backends.protocol import Session
from harness.backends.registry import Registry
from harness.errors import UnsupportedError
from harness.execution.apart import two_draws
from harness.execution.cases_run import moderate, spread
from harness.execution.errors_by_case import paired
from harness.execution.metamorphic import ask_again
from harness.execution.oracle_run import with_precision
from harness.execution.suite import load_suite
from harness.judge.evidence import Paired
from harness.models.cases import load_cases
from harness.models.load import load_model
from harness.models.types import Case

if TYPE_CHECKING:
    from harness.properties.language import Speaker

Array = np.ndarray[Any, np.dtype[Any]]

#: Prompts of the suite that noise and drift are measured on, and their longest.
_SAMPLE, _LONGEST = 12, 128


class Speakers:
    """The reference of a language model's suite, and its targets, in this process.

    Args:
        path: of the suite.
        registry: backends.

    Raises:
        UnsupportedError: the suite's model is no language model.
    """

    def __init__(self, path: str | Path, registry: Registry) -> None:
        self._suite = load_suite(path, registry)
        self._registry = registry
        self._model: Any = load_model(self._suite.model, self._suite.folder)
        self._made: dict[str, Speaker] = {}
        if not hasattr(self._model, "tokenizer"):
            raise UnsupportedError(
                f"{self._model.name} is no language model: there is nothing to ask"
            )

    @functools.cached_property
    def _cases(self) -> list[Case]:
        cases = load_cases(self._suite.cases, self._suite.folder, self._model)
        short = [c for c in cases if c.inputs["input_ids"].size <= _LONGEST]
        return spread(moderate(short or cases), _SAMPLE)

    @functools.cached_property
    def _reference(self) -> Session:
        reference = self._suite.reference
        backend = self._registry.backend(reference.backend)
        return with_precision(backend, reference.precision).load(self._model, None)

    @functools.cached_property
    def _plain(self) -> dict[str, dict[str, Array]]:
        return {c.id: dict(self._reference.run(c.inputs)) for c in self._cases}

    @functools.cached_property
    def _noise(self) -> Paired:
        """How far the reference is from itself when it is asked in another way."""
        again = ask_again(self._reference, self._cases)
        first = {(way, c): self._plain[c] for way in again for c in again[way]}
        other = {(way, c): again[way][c] for way in again for c in again[way]}
        return paired(_named(first), _named(other))

    def reference(self) -> Speaker:
        """The unquantized model: what fails here is not blamed on quantization."""
        return self._speaker("reference", self._reference, None)

    def target(self, name: str) -> Speaker:
        """The target of this name, `backend/scheme`."""
        if name not in self._made:
            self._made[name] = self._target(name)
        return self._made[name]

    def _target(self, name: str) -> Speaker:
        target = next(t for t in self._suite.targets if t.name == name)
        session = self._registry.backend(target.backend).load(
            self._model, target.scheme
        )
        drift = None
        if not target.scheme.weight_only:
            found = {c.id: dict(session.run(c.inputs)) for c in self._cases}
            drift = paired(self._plain, found)
        return self._speaker(name, session, drift)

    def _speaker(self, name: str, session: Session, drift: Paired | None) -> Speaker:
        from harness.properties.language import Speaker

        noise = two_draws(self._noise.ratio, 1, self._noise)

        def limit(inputs: dict[str, Array], plain: Array, other: Array) -> float:
            """Last bits; and where they flip roundings, two draws of those."""
            if drift is None:
                return noise
            wanted = np.asarray(self._reference.run(inputs)["logits"], np.float64)
            norm = np.linalg.norm(wanted)
            apart = [float(np.linalg.norm(x - wanted) / norm) for x in (plain, other)]
            return max(noise, two_draws(min(apart), 1, drift))

        return Speaker(
            name=f"{self._suite.name}/{name}",
            session=session,
            encode=self._model.tokenizer.encode,
            limit=limit,
        )


def _named(found: dict[tuple[str, str], Any]) -> dict[str, Any]:
    return {f"{way}: {case}": arrays for (way, case), arrays in found.items()}
