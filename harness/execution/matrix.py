"""Running the matrix: every target of every suite, in workers, judged as it ends."""

from __future__ import annotations

import dataclasses
import functools
import os
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from harness.backends.registry import Registry
from harness.errors import (
    BackendError,
    GoldenError,
    UnsupportedError,
)
from harness.execution.answers import recorded_replies
from harness.execution.assemble import assemble
from harness.execution.baseline import Baseline, whereabouts
from harness.execution.calibrated import with_file
from harness.execution.context import Context, make_context
from harness.execution.device import device_of
from harness.execution.diagnosis import with_diagnosis
from harness.execution.golden_inventory import other_cases
from harness.execution.isolation import Stop, Worker
from harness.execution.jobs import (
    DescribeJob,
    OracleRun,
    SuiteRef,
    TargetJob,
    TargetRun,
)
from harness.execution.observer import Observer
from harness.execution.ordering import with_orderings
from harness.execution.run_folder import target_folder, write_target
from harness.execution.side_by_side import write_replies
from harness.execution.suite import Suite, Target
from harness.execution.unfinished import Unfinished
from harness.execution.workers import Workers
from harness.golden.environment import since
from harness.golden.run_store import write_run_outputs
from harness.golden.store import Golden, read_golden
from harness.history.nights import Nights
from harness.judge import judge, judge_run
from harness.judge.budgets import acknowledgements_for, budgets_for
from harness.judge.evidence import Budget, Evidence, Failure
from harness.judge.types import Judgement
from harness.schemes.checkpoint import rounds_between
from harness.schemes.types import Scheme

#: What a gate gives a target to be timed.
LATENCY_SECONDS = 4.0


@dataclass(kw_only=True)
class Matrix:
    """What a run needs, and what it gathers."""

    registry: Registry
    folder: Path
    run_id: str
    observer: Observer
    plugins: Sequence[str] = ()
    timeout: float | None = None
    #: Most bytes that one worker may have resident.
    memory: float | None = None
    workers: int = 1
    baseline: Baseline | None = None
    #: "gate" controls the family-wise error rate of the run, "nightly" the rate of
    #: false discoveries.
    mode: Literal["gate", "nightly"] = "gate"
    #: Nights before this one, of a nightly run; after `run` this one included.
    nights: Nights | None = None
    #: Seconds for timing each target beside the unquantized model. Targets with a
    #: budget on cost are always timed.
    latency_seconds: float = 0.0
    #: Ends all workers when the run is interrupted.
    stop: Stop = field(default_factory=Stop)
    #: Every target's evidence, by name.
    evidence: dict[str, Evidence] = field(default_factory=dict)
    #: What workers found of the causes, by target: `Diagnosis.as_dict`.
    diagnoses: dict[str, tuple[Mapping[str, Any], ...]] = field(default_factory=dict)
    #: What the folder holds already, if this run goes on with an interrupted one.
    unfinished: Unfinished | None = None
    #: What differs from where each suite's golden was recorded.
    since_golden: dict[str, dict[str, tuple[str, str]]] = field(default_factory=dict)

    def run(self, pairs: Sequence[tuple[Suite, Target]]) -> tuple[Judgement, ...]:
        """Run and judge every target, in the order given.

        Raises:
            UsageError: a suite's model or cases are wrong.
        """
        groups = _groups(pairs)
        done: dict[tuple[str, str], Judgement] = {}
        with ThreadPoolExecutor(max_workers=max(1, self.workers)) as pool:
            try:
                for results in pool.map(self._suite, groups):
                    done.update(results)
            except BaseException:
                self.stop.now()
                raise
        # Judged alone while it ran, each target is judged again as one of a family.
        ordered = tuple(self.evidence[f"{suite.name}/{t.name}"] for suite, t in pairs)
        ordered = with_orderings(pairs, ordered)
        night = None
        if self.nights is not None:
            self.nights, ordered = self.nights.tonight(ordered)
            night = self.nights.night
        self.evidence = {f"{e.suite}/{e.backend}/{e.scheme}": e for e in ordered}
        judged = tuple(
            self._diagnosed(entry)
            for entry in judge_run(
                ordered, mode=self.mode, run_id=str(self.folder), night=night
            )
        )
        for (suite, target), judgement in zip(pairs, judged, strict=True):
            if judgement != done[suite.name, target.name]:
                evidence = self.evidence[judgement.name]
                write_target(judgement, evidence, self._folder(suite, target))
        return judged

    def _suite(
        self, group: tuple[Suite, Sequence[Target]]
    ) -> dict[tuple[str, str], Judgement]:
        """All targets of one suite: a worker a backend, one target after another."""
        suite, targets = group
        # A night has time for every case.
        ref = suite_ref(suite, select="" if self.nights is not None else suite.select)
        results = {}
        with Workers(
            suite.name,
            self._worker,
            timeout=self.timeout,
            on_message=self.observer.on_message,
        ) as workers:
            prepared = self._prepare(suite, ref, workers, targets)
            backend = targets[0].backend
            for target in targets:
                if target.backend != backend:
                    # Engines hold gigabytes of a model, all of them more than a
                    # machine has.
                    workers.close(backend)
                    backend = target.backend
                name = f"{suite.name}/{target.name}"
                self.observer.on_target(name)
                evidence = self._done(suite, target, prepared)
                if evidence is None:
                    evidence = self._target(suite, target, ref, prepared, workers)
                judgement = self._judged(evidence)
                self.evidence[judgement.name] = evidence
                write_target(judgement, evidence, self._folder(suite, target))
                self.observer.on_done(judgement)
                results[suite.name, target.name] = judgement
        return results

    def _done(
        self, suite: Suite, target: Target, prepared: Context | Failure
    ) -> Evidence | None:
        """What the target gave before the run was interrupted; None: it has to run."""
        if self.unfinished is None or isinstance(prepared, Failure):
            return None
        done = self.unfinished.target(suite, target)
        if done is None:
            return None
        self.diagnoses[f"{suite.name}/{target.name}"] = done.diagnosis
        return done.evidence

    def _judged(self, evidence: Evidence) -> Judgement:
        return self._diagnosed(judge(evidence, run_id=str(self.folder)))

    def _diagnosed(self, judgement: Judgement) -> Judgement:
        """With what its worker found of the cause, if it fails."""
        found = self.diagnoses.get(judgement.name, ())
        return with_diagnosis(judgement, found)

    def _folder(self, suite: Suite, target: Target) -> Path:
        return target_folder(self.folder, suite.name, target.name)

    def _worker(self, backend: str, log: str) -> Worker:
        """A worker with its share of the cores, unless the user gave a number."""
        cores = os.cpu_count() or 1
        threads = max(1, cores // max(1, self.workers))
        shared = self.workers > 1 and "QUANTHARNESS_THREADS" not in os.environ
        return Worker(
            log=self.folder / "logs" / log,
            plugins=self.plugins,
            threads=threads if shared else None,
            environment=self.registry.environment(backend),
            memory=self.memory,
            stop=self.stop,
        )

    def _prepare(
        self,
        suite: Suite,
        ref: SuiteRef,
        workers: Workers,
        targets: Sequence[Target],
    ) -> Context | Failure:
        """The golden, checked against today's model and cases; or why not."""
        try:
            golden = read_golden(suite.golden, suite=suite.name)
        except GoldenError as error:
            return Failure(kind="stale", message=str(error))
        self.since_golden[suite.name] = since(golden.environment)
        backend = self._describing_backend(targets)
        try:
            description = workers.get(backend).run(
                DescribeJob(suite=ref), timeout=self.timeout
            )
        except BackendError as error:
            return Failure(kind="error", message=f"loading {suite.model}: {error}")
        stale = _stale(golden, description.model_fingerprint, "model") or _stale(
            golden, description.cases_fingerprint, "cases"
        )
        if stale and "tokenizer" in description.metadata:
            # Of a language model a case is its tokens.
            stale += ": other texts, or another tokenizer"
        if stale:
            others = other_cases(golden, (case.id for case in description.cases))
            message = (
                f"{suite.golden}: {stale}{f' [{others}]' if others else ''}; "
                f"`quantharness record {suite.path.parent}"
            )
            return Failure(kind="stale", message=f"{message} --renew` records anew")
        return make_context(suite, description, golden, self.registry)

    def _describing_backend(self, targets: Sequence[Target]) -> str:
        """The first target's worker describes, so that its load is used twice."""
        return targets[0].backend

    def _target(
        self,
        suite: Suite,
        target: Target,
        ref: SuiteRef,
        prepared: Context | Failure,
        workers: Workers,
    ) -> Evidence:
        if isinstance(prepared, Failure):
            return _failed(suite, target, prepared)
        name = f"{suite.name}/{target.name}"
        budgets = budgets_for(suite, target, prepared.golden.model_fingerprint)
        ask = functools.partial(
            workers.get(target.backend).run,
            timeout=self.timeout,
            progress=lambda done, total: self.observer.on_progress(name, done, total),
        )
        try:
            job = TargetJob(
                suite=ref,
                backend=target.backend,
                scheme=with_file(target.scheme, prepared.golden, ref, ask),
                latency_seconds=self._latency(budgets),
            )
            run: TargetRun = ask(job)
            device = device_of(prepared, job, run, ask)
        except BackendError as error:
            return _failed(suite, target, Failure(kind="error", message=str(error)))
        except UnsupportedError as error:
            return _failed(
                suite, target, Failure(kind="unsupported", message=str(error))
            )
        self.diagnoses[name] = tuple(entry.as_dict() for entry in run.diagnosis)
        oracle = self._oracle(ref, job.scheme, run, workers)
        baseline = None
        if self.baseline is not None:
            baseline = self.baseline.evidence(suite, target, run, prepared)
        if run.outputs:
            folder = self._folder(suite, target)
            compact = {
                case: {
                    output: prepared.golden.outputs[case][output].project(array)
                    for output, array in arrays.items()
                    if output in prepared.golden.outputs.get(case, {})
                    and array.shape == prepared.golden.outputs[case][output].shape
                }
                for case, arrays in run.outputs.items()
            }
            write_run_outputs(
                folder,
                compact,
                where=whereabouts(target, run),
                model=prepared.golden.model_fingerprint,
            )
        evidence = assemble(
            prepared,
            target,
            run,
            oracle=oracle,
            baseline=baseline,
            budgets=budgets,
        )
        write_replies(
            self._folder(suite, target),
            recorded_replies(prepared.golden),
            run.replies,
            evidence.behaviours,
        )
        known = acknowledgements_for(suite, target, prepared.golden.model_fingerprint)
        return dataclasses.replace(evidence, acknowledgements=known, device=device)

    def _latency(self, budgets: Mapping[str, Budget]) -> float:
        if any(name.startswith("cost.") for name in budgets):
            return max(self.latency_seconds, LATENCY_SECONDS)
        return self.latency_seconds

    def _oracle(
        self, ref: SuiteRef, scheme: Scheme, run: TargetRun, workers: Workers
    ) -> OracleRun | None:
        """End to end, for weight-only schemes; shared by a suite's targets."""
        # What a file quantizes beside its layers, this oracle has not.
        if not scheme.weight_only or not run.outputs or rounds_between(scheme):
            return None
        return workers.oracle(ref, scheme)


def suite_ref(suite: Suite, *, select: str = "") -> SuiteRef:
    """What a worker needs of a suite, and which cases it runs."""
    return SuiteRef(
        name=suite.name,
        folder=str(suite.folder),
        model=suite.model,
        cases=suite.cases,
        batch=suite.batch,
        seed=suite.seed,
        select=select,
    )


def _groups(
    pairs: Sequence[tuple[Suite, Target]],
) -> Iterator[tuple[Suite, list[Target]]]:
    """Targets by suite, those of one backend together."""
    suites: dict[str, tuple[Suite, list[Target]]] = {}
    for suite, target in pairs:
        suites.setdefault(suite.name, (suite, []))[1].append(target)
    for suite, targets in suites.values():
        order = {t.backend: i for i, t in reversed(list(enumerate(targets)))}
        yield suite, sorted(targets, key=lambda target: order[target.backend])


def _stale(golden: Golden, today: str, what: str) -> str:
    recorded = getattr(golden, f"{what}_fingerprint")
    if recorded == today:
        return ""
    return (
        f"recorded from other {what} ({_short(recorded)}, today's are {_short(today)})"
    )


def _short(fingerprint: str) -> str:
    kind, _, digest = fingerprint.rpartition(":")
    return f"{kind}:{digest[:12]}" if kind else digest[:12]


def _failed(suite: Suite, target: Target, failure: Failure) -> Evidence:
    return Evidence(
        suite=suite.name,
        backend=target.backend,
        scheme=target.scheme.name,
        seed=suite.seed,
        required=target.required,
        weight_only=target.scheme.weight_only,
        failure=failure,
    )
