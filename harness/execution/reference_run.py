"""The reference inside a worker: what is recorded, and whether it can be trusted."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np

from harness.backends.protocol import Backend, Session
from harness.backends.registry import Registry
from harness.errors import BackendError, CasesError, MissingExtraError, UnsupportedError
from harness.execution.cases_run import (
    CasesRun,
    batches,
    moderate,
    release_memory,
    run_cases,
    spread,
    whole_batches,
)
from harness.execution.errors_by_case import paired
from harness.execution.jobs import Outputs, ReferenceJob, ReferenceRun
from harness.execution.loaded import Loaded, LoadedSuite
from harness.execution.metamorphic import ask_again
from harness.execution.operator_statistics import OperatorStatistics
from harness.execution.oracle_run import with_precision
from harness.execution.replies import replies_of
from harness.models.types import Case

Array = np.ndarray[Any, np.dtype[Any]]
OnProgress = Callable[[int, int], None]

#: Cases that the noise floor is measured on.
_SAMPLE = 8
#: Values a call that quantiles of a language model's inputs are taken from.
_QUANTILES = 4096
#: Precisions tried for the exact run, widest first.
_EXACT = ("fp64", "fp32")


def run_reference(
    job: ReferenceJob, registry: Registry, loaded: Loaded, progress: OnProgress
) -> ReferenceRun:
    """Run the reference with its statistics, its noise floor and an exact run.

    Raises:
        UnsupportedError: the backend is not there or has no such precision.
    """
    backend = registry.backend(job.backend)
    available = backend.probe()
    if not available.available:
        raise UnsupportedError(f"reference backend {job.backend}: {available.reason}")
    suite = loaded.get(job.suite)
    chosen = with_precision(backend, job.precision)
    tokens = any("positions" in case.inputs for case in suite.cases)
    statistics = {
        o.name: OperatorStatistics(o, sample=_QUANTILES if tokens else None)
        for o in suite.operators
    }
    session = chosen.load(suite.model, None)
    try:
        report: dict[str, Any] = getattr(session, "precision_report", dict)()
        plain = _watched(session, suite, job.suite.batch, statistics, progress)
        replies = replies_of(session, suite.model, suite.cases, batch=job.suite.batch)
        sample = spread(moderate(suite.cases), _SAMPLE)
        # The first batch as it was, so that nothing but the repetition is new.
        first = whole_batches(suite.cases, job.suite.batch, 1)
        again = run_cases(session, suite.model, first, batch=job.suite.batch)
        single = run_cases(session, suite.model, sample, batch=1)
        floor = {"repeat": _moved(plain, again), "batch of 1": _moved(plain, single)}
        for way, outputs in ask_again(session, sample).items():
            floor[way] = _moved(plain, CasesRun(outputs=outputs))
    finally:
        session.close()
    floor["threads"] = _threads(chosen, suite, sample, job.suite.batch)
    exact, precision = _exact(backend, suite, job, sample)
    shared = {case: plain.outputs[case] for case in exact.outputs}
    against = _by_output(exact.outputs, shared)
    floor[f"{job.precision} against {precision}"] = _moved(exact, plain)
    return ReferenceRun(
        outputs=plain.outputs,
        labels=right_tokens(suite.cases),
        replies=replies,
        precision={"requested": job.precision, **report},
        noise_floor=floor,
        operators={name: entry.as_dict() for name, entry in statistics.items()},
        against_exact=against,
        exact_precision=precision,
        nonfinite=_nonfinite(plain.outputs),
        version=available.version,
        device=available.device,
    )


def _watched(
    session: Session,
    suite: LoadedSuite,
    batch: int,
    statistics: Mapping[str, OperatorStatistics],
    progress: OnProgress,
) -> CasesRun:
    """All cases, with the statistics of every operator."""
    whole = CasesRun()
    for group in batches(suite.cases, batch):
        run = run_cases(
            session,
            suite.model,
            group,
            batch=batch,
            capture=list(statistics),
            on_capture=lambda name, x, y: statistics[name].add(x, y),
            capture_steps=None,
        )
        whole.seconds += run.seconds
        whole.calls += run.calls
        whole.outputs.update(run.outputs)
        release_memory()
        progress(len(whole.outputs), len(suite.cases))
    return whole


def right_tokens(cases: Sequence[Case]) -> dict[str, Array]:
    """The right token of every position, of cases whose `expected` names "labels".

    "labels" is a list of token ids, -1 where none is right, or "next": each position's
    right token is the next of `input_ids`.

    Raises:
        CasesError: "next" for a case without `input_ids`, or something else.
    """
    found = {}
    for case in cases:
        # A language model's cases name the positions that are looked at.
        labels = case.expected.get(
            "labels", "next" if "positions" in case.inputs else None
        )
        if labels is None:
            continue
        if labels == "next" and "input_ids" in case.inputs:
            ids = case.inputs["input_ids"]
            none = np.full((*ids.shape[:-1], 1), -1, ids.dtype)
            following = np.concatenate([ids[..., 1:], none], axis=-1)
            rows = case.inputs.get("positions")
            if rows is not None:
                following = np.take_along_axis(following, rows, axis=-1)
            found[case.id] = following
        elif isinstance(labels, list) and all(isinstance(i, int) for i in labels):
            found[case.id] = np.array([labels], dtype=np.int64)
        else:
            raise CasesError(
                f"case {case.id!r}: expected.labels={labels!r}, but should be a list "
                'of token ids, or "next" where the model takes input_ids'
            )
    return found


def _threads(
    backend: Backend, suite: LoadedSuite, sample: Sequence[Case], batch: int
) -> float:
    """How far the outputs move between one thread and two."""
    runs = []
    for count in ("1", "2"):
        with _environment("QUANTHARNESS_THREADS", count):
            session = backend.load(suite.model, None)
            try:
                runs.append(run_cases(session, suite.model, sample, batch=batch))
            finally:
                session.close()
    return _moved(*runs)


@contextmanager
def _environment(name: str, value: str) -> Iterator[None]:
    before = os.environ.get(name)
    os.environ[name] = value
    try:
        yield
    finally:
        if before is None:
            del os.environ[name]
        else:
            os.environ[name] = before


def _exact(
    backend: Backend, suite: LoadedSuite, job: ReferenceJob, sample: Sequence[Case]
) -> tuple[CasesRun, str]:
    """The widest precision that the backend runs the model in, on a sample."""
    for precision in _EXACT:
        try:
            session = with_precision(backend, precision).load(suite.model, None)
        except (UnsupportedError, MissingExtraError):
            continue
        try:
            run = run_cases(session, suite.model, sample, batch=job.suite.batch)
        finally:
            session.close()
        return run, precision
    raise BackendError(
        f"{job.backend} runs the model neither in fp64 nor in fp32, so the "
        f"{job.precision} reference cannot be checked"
    )


def _moved(first: CasesRun, second: CasesRun) -> float:
    """Largest pooled relative L2 of an output, over the cases both have."""
    return max(_by_output(first.outputs, second.outputs).values(), default=0.0)


def _by_output(exact: Outputs, other: Outputs) -> dict[str, float]:
    """Pooled relative L2 of each output; inf when one is not finite."""
    names = next(iter(exact.values()), {})
    return {name: paired(exact, other, names=(name,)).ratio for name in names}


def _nonfinite(outputs: Mapping[str, Mapping[str, Array]]) -> tuple[str, ...]:
    """`case/output` of everything that holds NaN or Inf."""
    return tuple(
        f"{case}/{name}"
        for case, arrays in outputs.items()
        for name, array in arrays.items()
        if not np.isfinite(np.asarray(array, dtype=np.float64)).all()
    )
