"""One target inside a worker: load, prove, run, repeat, check every operator."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from harness.backends.protocol import KV_CACHE, Arithmetic, Artifact, Session
from harness.backends.registry import Registry
from harness.compare.explained import STRIDE, Explained, weight_evidence
from harness.compare.operator_evidence import WeightEvidence
from harness.defects import PlantedBackend
from harness.errors import BackendError, UnsupportedError
from harness.execution.cases_run import (
    CasesRun,
    batches,
    largest_batch,
    moderate,
    release_memory,
    run_cases,
    spread,
    watched_batches,
)
from harness.execution.diagnosis import diagnose_operators
from harness.execution.draws import become, drawable
from harness.execution.errors_by_case import paired
from harness.execution.jobs import (
    REWRITTEN,
    Outputs,
    Repeat,
    TargetJob,
    TargetRun,
)
from harness.execution.latency import time_target
from harness.execution.loaded import Loaded, LoadedSuite
from harness.execution.metamorphic import ask_again
from harness.execution.operator_noise import (
    with_declared_noise,
    with_measured_noise,
)
from harness.execution.paths import Paths
from harness.execution.replies import replies_again, replies_of
from harness.judge.evidence import Failure
from harness.models.types import Case, Operator
from harness.schemes.apply import OperatorPlan, plan
from harness.schemes.types import Scheme

Array = np.ndarray[Any, np.dtype[Any]]
OnProgress = Callable[[int, int], None]

#: Multiplications after which no further cases are checked operator by operator.
_ORACLE_WORK = 5 * 10**8


def run_target(
    job: TargetJob, registry: Registry, loaded: Loaded, progress: OnProgress
) -> TargetRun:
    """Everything that is measured of one target.

    A backend that is not installed, or cannot run the scheme, is a `Failure` of the
    result; whatever it raises beyond that is the caller's to name.
    """
    backend = registry.backend(job.backend)
    if job.planting is not None:
        backend = PlantedBackend(backend, job.planting, registry.defects)
    available = backend.probe()
    result = TargetRun(availability=available)
    if not available.available:
        result.failure = Failure(
            kind="unsupported", message=available.reason, missing=True
        )
        return result
    suite = loaded.get(job.suite)
    try:
        result.support = backend.supports(suite.model, job.scheme)
        if not result.support.supported:
            result.failure = Failure(kind="unsupported", message=result.support.reason)
            return result
        start = time.perf_counter()
        session = backend.load(suite.model, job.scheme)
    except UnsupportedError as error:
        result.failure = Failure(kind="unsupported", message=str(error))
        return result
    result.timings["load"] = time.perf_counter() - start
    try:
        _measure(job, suite, session, result, progress)
        if job.latency_seconds > 0:
            result.latency = time_target(
                backend,
                job.scheme,
                suite,
                session,
                batch=job.suite.batch,
                seconds=job.latency_seconds,
            )
    finally:
        session.close()
    if isinstance(backend, PlantedBackend) and backend.planted:
        result.fired = backend.fired()
        result.tolerated = backend.tolerated()
        if backend.defect.place == "between" and not result.fired:
            reason = f"{backend.defect.name} fits nowhere: the model has no such step"
            result.failure = Failure(kind="unsupported", message=reason)
    return result


def _measure(
    job: TargetJob,
    suite: LoadedSuite,
    session: Session,
    result: TargetRun,
    progress: OnProgress,
) -> None:
    plans = plan(job.scheme, suite.operators)
    result.arithmetic = declared_arithmetic(session)
    result.drawable = drawable(session)
    if result.drawable:
        become(session, job.suite.seed, result.arithmetic.ages[0])
    start = time.perf_counter()
    artifact = _artifact(session)
    result.weights = _weights(suite.operators, job.scheme, plans, artifact)
    result.activations_expected = tuple(
        name for name, entry in plans.items() if entry.activations
    ) + ((KV_CACHE,) if job.scheme.kv_cache else ())
    result.activations_found = tuple(artifact.activations) if artifact else ()
    result.timings["artifact"] = time.perf_counter() - start
    run = run_cases(
        session, suite.model, suite.cases, batch=job.suite.batch, on_progress=progress
    )
    result.outputs = run.outputs
    result.timings["run"] = run.seconds
    start = time.perf_counter()
    batch = job.suite.batch
    result.replies = replies_of(session, suite.model, suite.cases, batch=batch)
    result.timings["generate"] = time.perf_counter() - start
    start = time.perf_counter()
    result.repeats = (*_rewritten(run), *_repeats(job, suite, session, run))
    if result.replies and not result.drawable:
        result.repeats += (replies_again(session, suite.model, suite.cases, result),)
    result.timings["repeat"] = time.perf_counter() - start
    start = time.perf_counter()
    _check_operators(job, suite, session, plans, result)
    result.timings["check"] = time.perf_counter() - start
    # Of one device that is not as another, what is odd is mostly its noise.
    if job.diagnose and not result.drawable:
        result.diagnosis = diagnose_operators(job, suite, session, result)


def declared_arithmetic(session: Session) -> Arithmetic:
    """What the session declares; a plugin that declares nothing computes in fp32."""
    declare = getattr(session, "arithmetic", None)
    if declare is None:
        return Arithmetic(execution="mixed", detail="not declared by the backend")
    declared = declare()
    assert isinstance(declared, Arithmetic)  # sanity check
    return declared


def _artifact(session: Session) -> Artifact | None:
    show = getattr(session, "artifact", None)
    return None if show is None else show()


def _weights(
    operators: Sequence[Operator],
    scheme: Scheme,
    plans: Mapping[str, OperatorPlan],
    artifact: Artifact | None,
) -> tuple[WeightEvidence, ...]:
    """Every operator's weight as found, and those that should be untouched."""
    if artifact is None:
        return ()
    found = []
    for operator in operators:
        entry = plans[operator.name]
        shown = artifact.weights.get(operator.name)
        evidence = weight_evidence(operator, scheme, shown)
        if not entry.weights:
            untouched = artifact.untouched.get(operator.name)
            altered = shown is not None or (
                untouched is not None
                and not np.allclose(untouched, operator.weight, rtol=2**-10, atol=0)
            )
            evidence = WeightEvidence(
                operator=operator.name,
                expected="",
                found=evidence.found,
                stored_as=evidence.stored_as,
                altered=altered,
            )
        found.append(evidence)
    return tuple(found)


def _rewritten(run: CasesRun) -> Iterator[Repeat]:
    """What a call returned, before and after the next call."""
    if run.rewritten:
        before = {name: was for name, (was, _) in run.rewritten.items()}
        after = {name: now for name, (_, now) in run.rewritten.items()}
        yield _repeat(REWRITTEN, {"first call": before}, {"first call": after})


def _repeats(
    job: TargetJob, suite: LoadedSuite, session: Session, run: CasesRun
) -> list[Repeat]:
    """The same cases once more, one by one, and in other ways that ask the same."""
    cases = spread(moderate(suite.cases), job.repeat_cases)
    repeats = []
    for name, batch in (("repeat", job.suite.batch), ("batch of 1", 1)):
        # A repeat must be stacked as the first time was, or it is another question.
        chosen = _same_batches(suite.cases, cases, batch)
        if batch == 1:
            chosen = [*cases, *_late(suite.cases, cases, job.suite.batch)]
        again = run_cases(session, suite.model, chosen, batch=batch)
        first = {case.id: run.outputs[case.id] for case in chosen}
        repeats.append(_repeat(name, first, again.outputs))
    for name, outputs in ask_again(session, cases).items():
        first = {case: run.outputs[case] for case in outputs}
        repeats.append(_repeat(name, first, outputs))
    return repeats


def _repeat(name: str, first: Outputs, again: Outputs) -> Repeat:
    return Repeat(name=name, difference=paired(first, again), outputs=again)


def _late(cases: Sequence[Case], chosen: Sequence[Case], batch: int) -> list[Case]:
    """The case that stood last in the largest batch.

    A fault of the rows behind the first few does not show in the first of each shape.
    """
    last = largest_batch(cases, batch)[-1:]
    return [case for case in last if case.id not in {c.id for c in chosen}]


def _same_batches(
    cases: Sequence[Case], chosen: Sequence[Case], batch: int
) -> list[Case]:
    """The whole batches in which the chosen cases stood, in the same order."""
    wanted = {case.id for case in chosen[:2]}
    return [
        case
        for group in batches(cases, batch)
        if wanted & {member.id for member in group}
        for case in group
    ]


def _check_operators(
    job: TargetJob,
    suite: LoadedSuite,
    session: Session,
    plans: Mapping[str, OperatorPlan],
    result: TargetRun,
) -> None:
    """Every quantized operator against the oracle on its own observed input."""
    operators = {operator.name: operator for operator in suite.operators}
    # Keys and values lie between operators: all of these are watched then.
    quantized = [
        name
        for name, entry in plans.items()
        if entry.weights or entry.activations or job.scheme.kv_cache
    ]
    assert result.arithmetic is not None  # sanity check
    groups = (
        watched_batches(suite.cases, job.capture_cases, job.suite.batch)
        if quantized
        else []
    )
    explained = Explained(job.scheme, result.arithmetic, calls=len(groups))
    paths = Paths(
        suite.model,
        job.scheme,
        [operators[name] for name in quantized],
        result.arithmetic,
        job.suite.seed,
    )
    seen: set[str] = set()
    refused = ""
    watched: dict[str, dict[str, Array]] = {}

    def on_capture(name: str, x: Array, y: Array) -> None:
        seen.add(name)
        explained.add(operators[name], x, y)

    for index, group in enumerate(groups):
        # The shortest and the longest come first, and are always checked; so is every
        # channel. Of a small model that is a part of what can be afforded.
        if explained.work > _ORACLE_WORK and index >= STRIDE:
            break
        try:
            run = run_cases(
                session,
                suite.model,
                group,
                batch=job.suite.batch,
                capture=quantized,
                on_capture=on_capture,
                on_call=paths.add if paths.wants(group) else None,
            )
        except (BackendError, UnsupportedError) as error:
            # The same cases ran a moment ago: what is refused is to be watched.
            refused = f": {error}"
            break
        watched.update(run.outputs)
        result.watched = index + 1
        release_memory()
    if not refused:
        # What is wrong from some position on shows in no short prompt.
        run_cases(
            session,
            suite.model,
            paths.long(suite.cases),
            batch=1,
            capture=quantized,
            on_call=paths.add,
        )
        paths.in_pieces(session, suite.cases)
        release_memory()
    if watched:
        # An engine may compute another thing while it is watched: then the operators
        # that were judged are not those that ran.
        assert result.outputs is not None  # sanity check
        plain = {case: result.outputs[case] for case in watched}
        result.repeats += (_repeat("capture", plain, watched),)
    if quantized and not seen:
        result.uncaptured = f"{job.backend} shows no operator outputs{refused}"
    result.operators = explained.result()
    result.paths, result.paths_skipped = paths.result(), paths.skipped
    if result.drawable:
        declared = with_declared_noise(
            result.operators, session, suite.model, groups[:1], batch=job.suite.batch
        )
        if declared is None:
            result.uncaptured = f"{job.backend} declares no error of its operators"
        result.operators = declared or ()
    elif groups and seen and result.arithmetic.determinism != "exact":
        result.operators = with_measured_noise(
            result.operators, session, suite.model, groups[0], batch=job.suite.batch
        )
