"""In a worker: one model as many devices, each at several ages."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from harness.backends.protocol import Arithmetic, Session
from harness.backends.registry import Registry
from harness.errors import BackendError
from harness.execution.cases_run import moderate, run_cases, spread
from harness.execution.jobs import Draw, DrawsJob, DrawsRun, Outputs
from harness.execution.loaded import Loaded, LoadedSuite
from harness.schemes.apply import plan
from harness.schemes.oracle import OperatorOracle

Array = np.ndarray[Any, np.dtype[Any]]


def drawable(session: Session) -> bool:
    """Whether the session is not exact, and can become the device of a seed."""
    declare = getattr(session, "arithmetic", None)
    exact = declare is None or declare().determinism == "exact"
    return not exact and hasattr(session, "draw")


def become(session: Any, seed: int, age: float) -> None:
    """Make the session the device of a seed, `age` seconds after programming."""
    session.draw(seed, age=age)


def run_draws(
    job: DrawsJob,
    registry: Registry,
    loaded: Loaded,
    progress: Callable[[int, int], None],
) -> DrawsRun:
    """Every seed at every age: the outputs, and every operator against the oracle.

    Raises:
        BackendError: the session cannot become another device.
    """
    suite = loaded.get(job.suite)
    session: Any = registry.backend(job.backend).load(suite.model, job.scheme)
    if not drawable(session):
        session.close()
        raise BackendError(f"{job.backend} cannot be drawn: its session has no `draw`")
    oracles = _oracles(job, suite)
    draws = []
    try:
        for index, seed in enumerate(job.seeds):
            for age in job.ages:
                become(session, seed, age)
                outputs, sums = _observe(job, suite, session, oracles)
                draws.append(_draw(seed, age, outputs, sums))
            progress(index + 1, len(job.seeds))
        declares = hasattr(session, "expected_error")
    finally:
        session.close()
    return DrawsRun(draws=tuple(draws), declares=declares)


def _oracles(job: DrawsJob, suite: LoadedSuite) -> dict[str, OperatorOracle]:
    plans = plan(job.scheme, suite.operators)
    return {
        operator.name: OperatorOracle(operator, job.scheme)
        for operator in suite.operators
        if plans[operator.name].weights
    }


def _observe(
    job: DrawsJob,
    suite: LoadedSuite,
    session: Any,
    oracles: dict[str, OperatorOracle],
) -> tuple[Outputs, dict[str, _Sums]]:
    """What the session gives as it is, and its operators beside the oracle."""
    cases = spread(moderate(suite.cases), job.cases)
    run = run_cases(session, suite.model, cases, batch=job.suite.batch)
    sums = {name: _Sums() for name in oracles}
    declare = getattr(session, "expected_error", None)

    def watch(name: str, x: Array, y: Array) -> None:
        oracle = oracles[name]
        declared = Arithmetic()
        exact = oracle(
            x, accumulate=declared.accumulate, output=declared.output
        ).exact.astype(np.float64)
        # A device that declares nothing is measured in units of the signal.
        shift, square = (
            (np.zeros(1), np.square(exact)) if declare is None else declare(name, x)
        )
        linear = oracle.operator.kind == "linear"
        sums[name].add(y - exact, exact, shift, square, linear=linear)

    run_cases(
        session,
        suite.model,
        cases[: job.watched],
        batch=job.suite.batch,
        capture=list(oracles),
        on_capture=watch,
    )
    return run.outputs, {n: entry for n, entry in sums.items() if entry.elements}


def _draw(seed: int, age: float, outputs: Outputs, seen: dict[str, _Sums]) -> Draw:
    return Draw(
        seed=seed,
        age=age,
        outputs=outputs,
        residual={name: entry.residual for name, entry in seen.items()},
        declared={name: entry.declared for name, entry in seen.items()},
        gain={name: entry.gain for name, entry in seen.items()},
        offset={name: entry.offset for name, entry in seen.items()},
    )


class _Sums:
    """Of one operator over all calls."""

    def __init__(self) -> None:
        self.residual: Array = np.zeros(1)
        self.declared: Array = np.zeros(1)
        self.elements = 0
        self._along = self._total = self._signal = 0.0

    def add(
        self, error: Array, exact: Array, shift: Array, square: Array, *, linear: bool
    ) -> None:
        """One call: what it was off by, the exact output, and what was declared."""
        square = np.broadcast_to(np.asarray(square, np.float64), exact.shape)
        self.residual = self.residual + _by_channel(np.square(error), linear=linear)
        self.declared = self.declared + _by_channel(square, linear=linear)
        beyond = error - shift
        self._along += float((beyond * exact).sum())
        self._total += float(beyond.sum())
        self._signal += float(np.square(exact).sum())
        self.elements += exact.size

    @property
    def gain(self) -> float:
        """Of the part along the exact output; 0 where that is 0."""
        return self._along / self._signal if self._signal else 0.0

    @property
    def offset(self) -> float:
        """Mean over all elements in units of the exact output's root mean square."""
        unit = math.sqrt(self._signal / self.elements)
        return self._total / self.elements / unit if unit else 0.0


def _by_channel(squares: Array, *, linear: bool) -> Array:
    """Sums over everything but the output channels."""
    axes = tuple(range(squares.ndim - 1))
    if not linear:
        axes = (0, *range(2, squares.ndim))
    found: Array = squares.sum(axis=axes)
    return found
