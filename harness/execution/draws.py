"""In a worker: one model as many devices, each at several ages."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from harness.backends.protocol import Arithmetic, Session
from harness.backends.registry import Registry
from harness.errors import BackendError
from harness.execution.cases_run import moderate, run_cases, spread
from harness.execution.jobs import Draw, DrawsJob, DrawsRun
from harness.execution.loaded import Loaded, LoadedSuite
from harness.schemes.apply import plan
from harness.schemes.oracle import OperatorOracle

Array = np.ndarray[Any, np.dtype[Any]]


def drawable(session: Session) -> bool:
    """Whether the session can become the device of a seed."""
    return hasattr(session, "draw")


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
                session.draw(seed, age=age)
                draws.append(_draw(job, suite, session, oracles, seed, age))
            progress(index + 1, len(job.seeds))
    finally:
        session.close()
    return DrawsRun(draws=tuple(draws))


def _oracles(job: DrawsJob, suite: LoadedSuite) -> dict[str, OperatorOracle]:
    plans = plan(job.scheme, suite.operators)
    return {
        operator.name: OperatorOracle(operator, job.scheme)
        for operator in suite.operators
        if plans[operator.name].weights
    }


def _draw(
    job: DrawsJob,
    suite: LoadedSuite,
    session: Any,
    oracles: dict[str, OperatorOracle],
    seed: int,
    age: float,
) -> Draw:
    cases = spread(moderate(suite.cases), job.cases)
    run = run_cases(session, suite.model, cases, batch=job.suite.batch)
    residual: dict[str, Array] = {}
    declared: dict[str, Array] = {}
    declare = getattr(session, "expected_error", None)

    def watch(name: str, x: Array, y: Array) -> None:
        arithmetic = Arithmetic()
        exact = oracles[name](
            x, accumulate=arithmetic.accumulate, output=arithmetic.output
        ).exact
        linear = oracles[name].operator.kind == "linear"
        error = _by_channel(np.square(np.asarray(y, np.float64) - exact), linear)
        # A device that declares nothing is measured in units of the signal.
        allowed = np.square(exact) if declare is None else declare(name, x)
        allowed = np.broadcast_to(np.asarray(allowed, np.float64), exact.shape)
        residual[name] = residual.get(name, 0) + error
        declared[name] = declared.get(name, 0) + _by_channel(allowed, linear)

    run_cases(
        session,
        suite.model,
        cases[: job.watched],
        batch=job.suite.batch,
        capture=list(oracles),
        on_capture=watch,
    )
    return Draw(
        seed=seed,
        age=age,
        outputs=run.outputs,
        residual=residual,
        declared=declared,
    )


def _by_channel(squares: Array, linear: bool) -> Array:  # noqa: FBT001
    """Sums over everything but the output channels."""
    axes = tuple(range(squares.ndim - 1))
    if not linear:
        axes = (0, *range(2, squares.ndim))
    found: Array = squares.sum(axis=axes)
    return found
