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
from harness.execution.assemble import Context, assemble, make_context
from harness.execution.diagnosis import with_diagnosis
from harness.execution.isolation import Worker
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
from harness.execution.matrix import calibrated, suite_ref
from harness.execution.selftest.trial import Trial
from harness.execution.suite import Suite, Target
from harness.golden.store import Golden, read_golden
from harness.judge import judge
from harness.judge.budgets import acknowledgements_for, budgets_for
from harness.judge.types import Judgement

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


@dataclass(kw_only=True)
class Stage:
    """One suite on one backend: its golden, its cases, few or all of them."""

    suite: Suite
    backend: str
    golden: Golden
    context: Context
    few: Context
    whole_ref: SuiteRef
    few_ref: SuiteRef
    #: Variables of the worker: the backend's variant.
    environment: Mapping[str, str] = field(default_factory=dict)
    oracles: dict[tuple[str, bool], OracleRun | None] = field(default_factory=dict)
    #: What targets give without a defect: outputs, and operators that are wrong anyway.
    clean: dict[tuple[str, bool], tuple[Outputs, dict[str, float]]] = field(
        default_factory=dict
    )

    @property
    def key(self) -> tuple[str, str]:
        """Suite and backend."""
        return self.suite.name, self.backend

    def worker(self, folder: Path, plugins: Sequence[str]) -> Worker:
        """A fresh worker process, which logs under a folder."""
        number = next(_COUNT)
        log = folder / "logs" / f"{self.suite.name}-{self.backend}-{number}.log"
        return Worker(log=log, plugins=plugins, threads=1, environment=self.environment)

    def trial(self, item: Item, worker: Worker, *, whole: bool = False) -> Trial:
        """Plant, run, judge; controls are run on all cases."""
        everything = whole or item.planting is None
        ref = self.whole_ref if everything else self.few_ref
        context = self.context if everything else self.few
        target = item.target
        trial = Trial(
            suite=self.suite.name,
            target=target.name,
            planting=item.planting,
            severity=item.severity,
            level=item.level,
            cases=len(context.description.cases),
        )
        job = TargetJob(
            suite=ref,
            backend=self.backend,
            scheme=calibrated(target.scheme, self.golden),
            planting=item.planting,
        )
        try:
            run: TargetRun = worker.run(job, timeout=TIMEOUT)
        except UnsupportedError as error:
            return dataclasses.replace(trial, unfit=str(error))
        except HarnessError as error:
            reason = str(error)
            return dataclasses.replace(trial, verdict="error", reason=reason)
        if run.failure is not None:
            return dataclasses.replace(trial, unfit=run.failure.message)
        judgement = self._judged(target, run, worker, everything=everything)
        guilty = _guilty(judgement)
        key = (target.name, everything)
        if item.planting is None:
            self.clean[key] = run.outputs, guilty
        elif key not in self.clean:
            plain = dataclasses.replace(job, planting=None)
            faultless: TargetRun = worker.run(plain, timeout=TIMEOUT)
            before = self._judged(target, faultless, worker, everything=everything)
            self.clean[key] = faultless.outputs, _guilty(before)
        outputs, known = self.clean[key]
        fired = None
        moved = None
        if item.planting is not None:
            moved = _moved(outputs, run.outputs)
            fired = bool(run.fired) if run.fired is not None else None
            if fired is None:
                fired = not _same(outputs, run.outputs)
        # Operators that are as wrong without the defect are known, not named again.
        named = [
            name
            for name, shown in guilty.items()
            if shown > _WORSE * known.get(name, 0.0) or not item.planting
        ]
        trial = dataclasses.replace(trial, fired=fired, moved=moved)
        return _filled(trial, judgement, run, named)

    def _judged(
        self, target: Target, run: TargetRun, worker: Worker, *, everything: bool
    ) -> Judgement:
        ref = self.whole_ref if everything else self.few_ref
        context = self.context if everything else self.few
        model = self.golden.model_fingerprint
        evidence = assemble(
            context,
            target,
            run,
            oracle=self._oracle(target, ref, worker, everything=everything),
            baseline=None,
            budgets=budgets_for(self.suite, target, model),
        )
        accepted = acknowledgements_for(self.suite, target, model)
        evidence = dataclasses.replace(evidence, acknowledgements=accepted)
        return with_diagnosis(judge(evidence), run.diagnosis)

    def _oracle(
        self, target: Target, ref: SuiteRef, worker: Worker, *, everything: bool
    ) -> OracleRun | None:
        if not target.scheme.weight_only:
            return None
        key = (target.scheme.name, everything)
        if key not in self.oracles:
            job = OracleJob(suite=ref, backend="torch", scheme=target.scheme)
            try:
                self.oracles[key] = worker.run(job, timeout=TIMEOUT)
            except (BackendError, UnsupportedError):
                self.oracles[key] = None
        return self.oracles[key]


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
    failing = [c for c in judgement.checks if c.verdict is judgement.verdict]
    told = [d for d in judgement.diagnosis if d["operator"] in named]
    first = told[0] if told else {}
    return dataclasses.replace(
        trial,
        verdict=str(judgement.verdict),
        check=failing[0].check if failing else "",
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
    ref = suite_ref(suite)
    whole: Description = worker.run(DescribeJob(suite=ref), timeout=TIMEOUT)
    if golden.model_fingerprint != whole.model_fingerprint:
        raise UsageError(
            f"{suite.golden}: recorded from another model; `quantharness record "
            f"{suite.path.parent} --renew` records anew"
        )
    small = dataclasses.replace(ref, few=few)
    part: Description = worker.run(DescribeJob(suite=small), timeout=TIMEOUT)
    names = [case.id for case in part.cases]
    fewer = dataclasses.replace(
        golden, outputs={name: golden.outputs[name] for name in names}
    )
    stage = Stage(
        suite=suite,
        backend=backend,
        golden=golden,
        context=make_context(suite, whole, golden, registry),
        few=make_context(suite, part, fewer, registry),
        whole_ref=ref,
        few_ref=small,
        environment=registry.environment(backend),
    )
    return stage, whole
