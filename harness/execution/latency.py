"""A target timed beside its own backend's unquantized run, in turns, in one process."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, Final

import numpy as np

from harness.backends.protocol import Artifact, Backend, Session
from harness.errors import MissingExtraError, UnsupportedError
from harness.execution.cases_run import run_cases, whole_batches
from harness.execution.loaded import LoadedSuite
from harness.judge.evidence import LatencyEvidence
from harness.judge.interleave import interleave
from harness.models.types import Case
from harness.schemes.types import Scheme

Array = np.ndarray[Any, np.dtype[Any]]

#: Rounds at least and at most: below 20 a median of pairs has no useful interval.
_LEAST_PAIRS: Final = 20
_MOST_PAIRS: Final = 200
_LOAD_PAIRS: Final = 5
_WARM_UP: Final = 3


def time_target(
    backend: Backend,
    scheme: Scheme,
    suite: LoadedSuite,
    session: Session,
    *,
    batch: int,
    seconds: float,
) -> tuple[LatencyEvidence, ...]:
    """Time a loaded target and the same backend's reference in turns.

    Phases: "run" (the whole call, or what the session itself says its model took);
    others that both sessions report in their outputs' `timings` ("transfer",
    "serialize"), apart from it; "load"; and "weights", the bytes that hold the
    quantized weights, against the same weights in FP16.

    Args:
        backend: the target's, which also runs the model unquantized.
        scheme: the target's.
        suite: model and cases.
        session: the target, loaded.
        batch: most cases that are stacked; the first batch of the suite is timed, or
            so many of its cases, or of a case's steps, that twenty rounds fit.
        seconds: about how long the calls may take, and a quarter of it for loading;
            what cannot be timed is left out.

    Returns:
        Nothing where the backend cannot run the model unquantized.
    """
    try:
        reference = backend.load(suite.model, None)
    except (UnsupportedError, MissingExtraError):
        return ()
    found = list(_weights(suite, session))
    try:
        cases = whole_batches(suite.cases, batch, 1)
        pairs = 0
        while cases and pairs < _LEAST_PAIRS:
            sides = [_Side(side, suite, cases, batch) for side in (reference, session)]
            pairs = _affordable(sides, seconds)
            cases = _fewer(cases, suite)
        if pairs >= _LEAST_PAIRS:
            found += _runs(sides, pairs)
    finally:
        reference.close()
    return (*found, *_loads(backend, scheme, suite, seconds / 4))


class _Side:
    """One of the two: runs the cases and keeps what its session said of its time."""

    def __init__(
        self, session: Session, suite: LoadedSuite, cases: Sequence[Case], batch: int
    ) -> None:
        self.session = session
        self.suite = suite
        self.cases = cases
        self.batch = batch
        self.rounds: list[dict[str, float]] = []

    def __call__(self) -> None:
        """One round."""
        self.rounds.append(defaultdict(float))
        run_cases(self, self.suite.model, self.cases, batch=self.batch)

    def run(
        self, inputs: Mapping[str, Array], *, capture: Collection[str] = ()
    ) -> Mapping[str, Array]:
        """The session's own run; its timings are added to the round's."""
        outputs = self.session.run(inputs, capture=capture)
        for phase, value in getattr(outputs, "timings", {}).items():
            self.rounds[-1][phase] += value
        return outputs

    def close(self) -> None:
        """The session is closed by whoever loaded it."""

    def phase(self, name: str, pairs: int) -> Array | None:
        """What the last rounds say of a phase; None if one does not name it."""
        last = self.rounds[-pairs:]
        if not all(name in entry for entry in last):
            return None
        return np.array([entry[name] for entry in last])


def _affordable(sides: Sequence[Callable[[], None]], seconds: float) -> int:
    """How many rounds fit, after one that warms up."""
    for side in sides:
        side()
    start = time.perf_counter()
    for side in sides:
        side()
    each = max(time.perf_counter() - start, 1e-6)
    return min(_MOST_PAIRS, int(seconds / each) - _WARM_UP)


def _fewer(cases: list[Case], suite: LoadedSuite) -> list[Case]:
    """A quarter of the cases, or of the one case's steps; [] when nothing is left."""
    if len(cases) > 1:
        return cases[: max(1, len(cases) // 4)]
    stepped = suite.model.step_inputs
    steps = len(cases[0].inputs[stepped[0]]) // 4 if stepped else 0
    if not steps:
        return []
    inputs = {
        name: array[:steps] if name in stepped else array
        for name, array in cases[0].inputs.items()
    }
    return [Case(cases[0].id, inputs)]


def _runs(sides: Sequence[_Side], pairs: int) -> list[LatencyEvidence]:
    """The calls, and the phases that both sessions tell apart."""
    first, second = sides
    whole = interleave(first, second, phase="run", pairs=pairs, warm_up=_WARM_UP)
    told = {name for side in sides for name in side.rounds[-1]}
    found = {"run": whole}
    for name in sorted(told):
        times = [side.phase(name, pairs) for side in sides]
        if times[0] is not None and times[1] is not None:
            found[name] = LatencyEvidence(
                phase=name, reference=times[0], target=times[1]
            )
    return list(found.values())


def _loads(
    backend: Backend, scheme: Scheme, suite: LoadedSuite, seconds: float
) -> tuple[LatencyEvidence, ...]:
    """Loading from the model in memory to a session that can run."""
    start = time.perf_counter()
    for wanted in (None, scheme):
        backend.load(suite.model, wanted).close()
    if (time.perf_counter() - start) * _LOAD_PAIRS > seconds:
        return ()
    found = interleave(
        lambda: backend.load(suite.model, None).close(),
        lambda: backend.load(suite.model, scheme).close(),
        phase="load",
        pairs=_LOAD_PAIRS,
        warm_up=0,
    )
    return (found,)


def _weights(suite: LoadedSuite, session: Session) -> tuple[LatencyEvidence, ...]:
    """Bytes of the quantized weights, where the backend shows them."""
    show = getattr(session, "artifact", None)
    artifact: Artifact | None = show() if show is not None else None
    if artifact is None or not artifact.weights:
        return ()
    held = sum(entry.nbytes for entry in artifact.weights.values())
    plain = sum(
        2 * operator.weight.size
        for operator in suite.operators
        if operator.name in artifact.weights
    )
    if not held or not plain:
        return ()
    return (
        LatencyEvidence(
            phase="weights",
            reference=np.array([float(plain)]),
            target=np.array([float(held)]),
            unit="bytes",
        ),
    )
