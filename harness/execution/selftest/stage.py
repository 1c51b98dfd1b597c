"""A suite on a backend, ready for trials: golden, cases, oracles, clean runs."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import numpy as np

from harness.backends.registry import Registry
from harness.defects import Planting
from harness.errors import BackendError, HarnessError, UnsupportedError, UsageError
from harness.execution.assemble import assemble
from harness.execution.calibrated import with_file
from harness.execution.context import Context, make_context
from harness.execution.diagnosis import with_diagnosis
from harness.execution.isolation import Stop, Worker
from harness.execution.jobs import (
    DescribeJob,
    Description,
    OracleJob,
    OracleRun,
    Outputs,
    SuiteRef,
    TargetJob,
    TargetRun,
)
from harness.execution.matrix import suite_ref
from harness.execution.selftest.trial import Trial
from harness.execution.suite import Suite, Target
from harness.golden.store import Golden, read_golden
from harness.judge import judge
from harness.judge.budgets import acknowledgements_for, budgets_for
from harness.judge.types import Judgement
from harness.schemes.checkpoint import rounds_between
from harness.schemes.types import Scheme

#: Cases that a planting is tried on first.
FEW: Final = 12
#: Seconds that one planting may take.
TIMEOUT: Final = 600.0
#: An operator that is wrong anyway is named when it got worse by this.
_WORSE: Final = 1.2
_COUNT = itertools.count()


@dataclass(frozen=True, kw_only=True)
class Item:
    """One trial to be run."""

    stage: Stage
    target: Target
    planting: Planting | None
    severity: str = ""
    level: str = "clean"
    #: Which of several alike: a target's clean runs are counted.
    number: int = 0
    #: Operators of other shapes, which the defect may fit where it does not this one.
    elsewhere: tuple[str, ...] = ()


@dataclass(frozen=True)
class View:
    """Some of a suite's cases, and what is recorded of them."""

    ref: SuiteRef
    context: Context


@dataclass(frozen=True)
class Faultless:
    """A target without a defect, on some cases."""

    outputs: Outputs
    #: Operators that are wrong anyway.
    guilty: Mapping[str, float]
    #: Verdict and check, where these cases fail anyway: a few may be too few.
    alarm: tuple[str, str] | None


@dataclass(kw_only=True)
class Stage:
    """One suite on one backend: its golden, its cases, few or all of them."""

    suite: Suite
    backend: str
    golden: Golden
    registry: Registry
    whole: View
    few: View
    #: Variables of the worker: the backend's variant.
    environment: Mapping[str, str] = field(default_factory=dict)
    #: Digest of the plugins' code.
    plugged: str = ""
    oracles: dict[tuple[str, SuiteRef], OracleRun | None] = field(default_factory=dict)
    #: Calibrated, by name; those that a quantizer makes as it made them.
    schemes: dict[str, Scheme] = field(default_factory=dict)
    #: What targets give without a defect.
    clean: dict[tuple[str, SuiteRef], Faultless] = field(default_factory=dict)

    @property
    def key(self) -> tuple[str, str]:
        """Suite and backend."""
        return self.suite.name, self.backend

    def worker(
        self, folder: Path, plugins: Sequence[str], stop: Stop | None = None
    ) -> Worker:
        """A fresh worker process, which logs under a folder."""
        number = next(_COUNT)
        log = folder / "logs" / f"{self.suite.name}-{self.backend}-{number}.log"
        return Worker(
            log=log,
            plugins=plugins,
            threads=1,
            environment=self.environment,
            stop=stop,
        )

    def trial(self, item: Item, worker: Worker, *, whole: bool = False) -> Trial:
        """Plant, run, judge.

        The first control of a target is run on all cases, every further one on another
        random half of them: a run that is only repeated shows nothing new.
        """
        view = self.few
        if whole or item.planting is None:
            view = self.whole
        if item.planting is None and item.number:
            ref = dataclasses.replace(self.whole.ref, draw=item.number)
            view = _view(self.suite, ref, self.golden, self.registry, worker)
        target = item.target
        trial = Trial(
            suite=self.suite.name,
            target=target.name,
            planting=item.planting,
            severity=item.severity,
            level=item.level,
            cases=len(view.context.description.cases),
        )
        try:
            job = TargetJob(
                suite=view.ref,
                backend=self.backend,
                scheme=self._scheme(target, worker),
                planting=item.planting,
                # Where every operator has it there is none to be named.
                diagnose=item.planting is None or item.planting.operator is not None,
            )
            run: TargetRun = worker.run(job, timeout=TIMEOUT)
        except UnsupportedError as error:
            return dataclasses.replace(trial, unfit=str(error))
        except HarnessError as error:
            reason = str(error)
            return dataclasses.replace(trial, verdict="error", reason=reason)
        if run.failure is not None:
            return dataclasses.replace(trial, unfit=run.failure.message)
        judgement = self._judged(target, run, worker, view)
        guilty = _guilty(judgement)
        if item.planting is None:
            if not item.number:
                self.clean[target.name, view.ref] = _faultless(run, judgement)
            return _filled(trial, judgement, run, list(guilty))
        clean = self._faultless(job, target, view, worker)
        fired = run.fired
        trial = dataclasses.replace(
            trial,
            moved=_moved(clean.outputs, run.outputs),
            tolerated=bool(run.fired) and run.tolerated,
            fired=not _same(clean.outputs, run.outputs)
            if fired is None
            else bool(fired),
        )
        # Operators that are as wrong without the defect are known, not named again.
        named = [
            name
            for name, shown in guilty.items()
            if shown > _WORSE * clean.guilty.get(name, 0.0)
        ]
        return unless_clean_fails_too(_filled(trial, judgement, run, named), clean)

    def _scheme(self, target: Target, worker: Worker) -> Scheme:
        """A target's scheme, calibrated; made first where a quantizer makes it."""
        name = target.scheme.name
        if name not in self.schemes:
            self.schemes[name] = with_file(
                target.scheme,
                self.golden,
                self.whole.ref,
                lambda job: worker.run(job, timeout=TIMEOUT),
            )
        return self.schemes[name]

    def _faultless(
        self, job: TargetJob, target: Target, view: View, worker: Worker
    ) -> Faultless:
        """The same run without the defect."""
        key = (target.name, view.ref)
        if key not in self.clean:
            plain = dataclasses.replace(job, planting=None)
            run: TargetRun = worker.run(plain, timeout=TIMEOUT)
            judgement = self._judged(target, run, worker, view)
            self.clean[key] = _faultless(run, judgement)
        return self.clean[key]

    def _judged(
        self, target: Target, run: TargetRun, worker: Worker, view: View
    ) -> Judgement:
        model = self.golden.model_fingerprint
        evidence = assemble(
            view.context,
            target,
            run,
            oracle=self._oracle(target, view.ref, worker),
            baseline=None,
            budgets=budgets_for(self.suite, target, model),
        )
        accepted = acknowledgements_for(self.suite, target, model)
        evidence = dataclasses.replace(evidence, acknowledgements=accepted)
        found = [entry.as_dict() for entry in run.diagnosis]
        return with_diagnosis(judge(evidence), found)

    def _oracle(
        self, target: Target, ref: SuiteRef, worker: Worker
    ) -> OracleRun | None:
        scheme = self._scheme(target, worker)
        # What a file quantizes beside its layers, this oracle has not.
        if not scheme.weight_only or rounds_between(scheme):
            return None
        key = (scheme.name, ref)
        if key not in self.oracles:
            job = OracleJob(suite=ref, backend="torch", scheme=scheme)
            try:
                self.oracles[key] = worker.run(job, timeout=TIMEOUT)
            except (BackendError, UnsupportedError):
                self.oracles[key] = None
        return self.oracles[key]


def unless_clean_fails_too(trial: Trial, clean: Faultless) -> Trial:
    """A failure that the same cases show without the defect is not the defect's."""
    if not trial.caught or (trial.verdict, trial.check) != clean.alarm:
        return trial
    reason = f"these cases fail without the defect as well: {trial.reason}"
    return dataclasses.replace(trial, verdict="inconclusive", reason=reason)


def _faultless(run: TargetRun, judgement: Judgement) -> Faultless:
    assert run.outputs is not None  # sanity check
    alarm = None
    if judgement.verdict.fails:
        alarm = str(judgement.verdict), _deciding(judgement)
    return Faultless(run.outputs, _guilty(judgement), alarm)


def _deciding(judgement: Judgement) -> str:
    """The check that named the verdict."""
    failing = [c for c in judgement.checks if c.verdict is judgement.verdict]
    return failing[0].check if failing else ""


def _guilty(judgement: Judgement) -> dict[str, float]:
    """Unexplained drift of the operators beyond their limit, in order of execution."""
    return {o.name: o.unexplained for o in judgement.operators if o.guilty}


def _same(first: Outputs, second: Outputs) -> bool:
    """Whether two runs gave the same bits."""
    return all(
        np.array_equal(array, second[case][name], equal_nan=True)
        for case, arrays in first.items()
        for name, array in arrays.items()
    )


def _moved(first: Outputs, second: Outputs) -> float | None:
    """Relative L2 from one run to another; None: shapes differ or not finite."""
    difference = size = 0.0
    for case, arrays in first.items():
        for name, array in arrays.items():
            other = second[case][name]
            if array.shape != other.shape:
                return None
            with np.errstate(all="ignore"):
                step = other.astype(np.float64) - array
            difference += float(np.square(step).sum())
            size += float(np.square(array.astype(np.float64)).sum())
    if not np.isfinite(difference) or size == 0:
        return None
    return float(np.sqrt(difference / size))


def _filled(
    trial: Trial,
    judgement: Judgement,
    run: TargetRun,
    named: Sequence[str],
) -> Trial:
    told = [d for d in judgement.diagnosis if d["operator"] in named]
    first = told[0] if told else {}
    return dataclasses.replace(
        trial,
        verdict=str(judgement.verdict),
        check=_deciding(judgement),
        reason=judgement.reason,
        operator=named[0] if named else "",
        cause=str(first.get("defect", "")),
        confidence=float(first.get("confidence", 0.0)),
        seconds=sum(run.timings.values()),
    )


def open_stage(
    suite: Suite, backend: str, registry: Registry, worker: Worker, *, few: int = FEW
) -> tuple[Stage, Description]:
    """The golden and the cases of a suite for one backend.

    Raises:
        GoldenError: there is no golden.
        UsageError: the golden is of another model or of other cases.
    """
    golden = read_golden(suite.golden, suite=suite.name)
    # The cases that the gate runs before a merge: it is the gate that is tested.
    ref = suite_ref(suite, select=suite.select)
    whole: Description = worker.run(DescribeJob(suite=ref), timeout=TIMEOUT)
    if golden.model_fingerprint != whole.model_fingerprint:
        raise UsageError(
            f"{suite.golden}: recorded from another model; `quantharness record "
            f"{suite.path.parent} --renew` records anew"
        )
    stage = Stage(
        suite=suite,
        backend=backend,
        golden=golden,
        registry=registry,
        whole=View(ref, make_context(suite, whole, golden, registry)),
        few=_view(suite, dataclasses.replace(ref, few=few), golden, registry, worker),
        environment=registry.environment(backend),
    )
    return stage, whole


def _view(
    suite: Suite, ref: SuiteRef, golden: Golden, registry: Registry, worker: Worker
) -> View:
    part: Description = worker.run(DescribeJob(suite=ref), timeout=TIMEOUT)
    return View(ref, make_context(suite, part, golden, registry))
