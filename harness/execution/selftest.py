"""What a suite's gate would catch: every defect that fits, in every target.

A planting is run as the gate runs a target, on as many cases as cover the suite's
shapes; what is missed there is run again on all of them, so that "missed" means that
the whole gate misses it. Clean targets run beside: an alarm there is as bad as a miss.
"""

from __future__ import annotations

import dataclasses
import itertools
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import numpy as np

from harness.backends.registry import Registry
from harness.defects import DEFECTS, Defect, Planting
from harness.defects.types import SHARE
from harness.diagnose.types import UNKNOWN
from harness.errors import BackendError, UnsupportedError, UsageError
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
from harness.execution.suite import Suite, Target
from harness.golden.store import Golden, read_golden
from harness.judge import judge
from harness.judge.budgets import acknowledgements_for, budgets_for
from harness.judge.types import Judgement, Verdict
from harness.models.types import Operator
from harness.schemes.apply import plan_one

#: Cases that a planting is tried on first.
FEW: Final = 12
#: Seconds that one planting may take.
TIMEOUT: Final = 600.0
#: Steps of the bisection for the smallest strength that is caught.
_STEPS: Final = 5


@dataclass(frozen=True, kw_only=True)
class Trial:
    """One planting in one target, and what the gate said."""

    suite: str
    target: str
    planting: Planting | None
    severity: str = ""
    #: "low", "catalogue", "high", "bisect"; "clean" for a control.
    level: str = "catalogue"
    verdict: str = ""
    #: The check that named the verdict.
    check: str = ""
    reason: str = ""
    #: Why the defect was not planted: it fits nothing here.
    unfit: str = ""
    #: Whether it changed any output of an operator; None: the backend cannot say.
    fired: bool | None = None
    #: The operator that was named first, and the cause.
    operator: str = ""
    cause: str = ""
    confidence: float = 0.0
    seconds: float = 0.0
    #: Cases that it was judged on.
    cases: int = 0

    @property
    def caught(self) -> bool:
        """Whether the gate failed."""
        return bool(self.verdict) and Verdict(self.verdict).fails

    @property
    def planted(self) -> bool:
        """Whether there was anything to catch."""
        return self.planting is not None and not self.unfit and self.fired is not False

    def as_dict(self) -> dict[str, Any]:
        """Plain values."""
        found = {
            f.name: getattr(self, f.name)
            for f in dataclasses.fields(self)
            if f.name != "planting"
        }
        planting = self.planting
        found["defect"] = planting.defect if planting else ""
        found["planted_in"] = (planting.operator or "all") if planting else ""
        found["strength"] = planting.strength if planting else None
        return {**found, "caught": self.caught, "planted": self.planted}


@dataclass(frozen=True, kw_only=True)
class Threshold:
    """The smallest strength that was caught, found by bisection."""

    suite: str
    target: str
    defect: str
    parameter: str
    #: The smallest strength that was caught and the largest that was not; None: even
    #: the smallest that was tried is caught.
    caught: float | None
    missed: float | None


@dataclass(kw_only=True)
class SelfTest:
    """The plan of a self-test and what came of it.

    Attributes:
        registry: backends and plugged defects.
        folder: where workers log.
        plugins: loaded by the workers.
        workers: worker processes at the same time.
        on_trial: told of every trial.
        trials: in the order that they ended.
    """

    registry: Registry
    folder: Path
    plugins: Sequence[str] = ()
    workers: int = 1
    on_trial: Callable[[Trial, int, int], None] | None = None
    trials: list[Trial] = field(default_factory=list)
    thresholds: list[Threshold] = field(default_factory=list)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def run(self, items: Sequence[Item], *, bisect: bool = False) -> list[Trial]:
        """Run what was planned; workers keep a suite's model between trials.

        Args:
            items: from `plan`.
            bisect: also look for the smallest strength of every caught defect.
        """
        queues: dict[tuple[str, str], list[Item]] = {}
        for item in items:
            queues.setdefault(item.stage.key, []).append(item)
        lanes: list[list[Item]] = []
        for entries in queues.values():
            size = max(1, -(-len(entries) // self.workers))
            lanes += [entries[i : i + size] for i in range(0, len(entries), size)]
        total = len(items)
        with ThreadPoolExecutor(max_workers=max(1, self.workers)) as pool:
            list(pool.map(lambda lane: self._lane(lane, total, bisect=bisect), lanes))
        return self.trials

    def _lane(self, items: Sequence[Item], total: int, *, bisect: bool) -> None:
        """Trials of one suite and backend, one after another in one worker."""
        stage = items[0].stage
        with stage.worker(self) as worker:
            for item in items:
                trial = stage.trial(item, worker)
                if item.planting is not None and not trial.caught and trial.planted:
                    trial = stage.trial(item, worker, whole=True)
                with self._lock:
                    self.trials.append(trial)
                    done = len(self.trials)
                if self.on_trial is not None:
                    self.on_trial(trial, done, total)
                if bisect and trial.caught and item.level == "catalogue":
                    found = _bisect(item, stage, worker)
                    if found is not None:
                        with self._lock:
                            self.thresholds.append(found)


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
    oracles: dict[tuple[str, bool], OracleRun | None] = field(default_factory=dict)
    #: What targets give without a defect: outputs, and operators that are wrong anyway.
    clean: dict[tuple[str, bool], tuple[Outputs, frozenset[str]]] = field(
        default_factory=dict
    )

    @property
    def key(self) -> tuple[str, str]:
        """Suite and backend."""
        return self.suite.name, self.backend

    def worker(self, test: SelfTest) -> Worker:
        """A fresh worker process."""
        number = next(_COUNT)
        log = test.folder / "logs" / f"{self.suite.name}-{self.backend}-{number}.log"
        return Worker(log=log, plugins=test.plugins, threads=1)

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
        except BackendError as error:
            reason = str(error)
            return dataclasses.replace(trial, verdict="error", reason=reason)
        if run.failure is not None:
            return dataclasses.replace(trial, unfit=run.failure.message)
        judgement = self._judged(target, run, worker, everything=everything)
        guilty = [entry.name for entry in judgement.operators if entry.guilty]
        key = (target.name, everything)
        if item.planting is None:
            self.clean[key] = run.outputs, frozenset(guilty)
        elif key not in self.clean:
            plain = dataclasses.replace(job, planting=None)
            faultless: TargetRun = worker.run(plain, timeout=TIMEOUT)
            before = self._judged(target, faultless, worker, everything=everything)
            wrong = frozenset(entry.name for entry in before.operators if entry.guilty)
            self.clean[key] = faultless.outputs, wrong
        outputs, known = self.clean[key]
        fired = None
        if item.planting is not None:
            fired = bool(run.fired) if run.fired is not None else None
            if fired is None:
                fired = not _same(outputs, run.outputs)
        # Operators that are wrong without the defect are known, and not named again.
        named = [name for name in guilty if name not in known or not item.planting]
        return _filled(trial, judgement, run, fired=fired, named=named)

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


_COUNT = itertools.count()


@dataclass(frozen=True, kw_only=True)
class Item:
    """One trial to be run."""

    stage: Stage
    target: Target
    planting: Planting | None
    severity: str = ""
    level: str = "clean"


def _same(first: Outputs, second: Outputs) -> bool:
    """Whether two runs gave the same bits."""
    return all(
        np.array_equal(array, second[case][name], equal_nan=True)
        for case, arrays in first.items()
        for name, array in arrays.items()
    )


def _filled(
    trial: Trial,
    judgement: Judgement,
    run: TargetRun,
    *,
    fired: bool | None,
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
        fired=fired,
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
    )
    return stage, whole


def levels(defect: Defect, wanted: Sequence[str]) -> Iterator[tuple[str, float]]:
    """The strengths of a defect, each once."""
    seen: set[float] = set()
    for name in wanted:
        value = float(getattr(defect.parameter, name))
        if value not in seen:
            seen.add(value)
            yield name, value


def plan(
    stage: Stage,
    targets: Sequence[Target],
    operators: Mapping[str, Sequence[str]],
    *,
    defects: Mapping[str, Defect] | None = None,
    strengths: Sequence[str] = ("low", "catalogue", "high"),
    places: Sequence[str] = ("one", "all"),
    controls: int = 1,
) -> list[Item]:
    """Every defect in every target, at every strength, in one operator and in all.

    Args:
        stage: suite and backend.
        targets: of that backend.
        operators: by target, the names of those that are quantized.
        defects: name -> defect; None: the catalogue.
        strengths: "low", "catalogue", "high".
        places: "one", "all".
        controls: clean runs of each target.
    """
    items = []
    known = DEFECTS if defects is None else defects
    for target in targets:
        clean = Item(stage=stage, target=target, planting=None)
        items.extend([clean] * controls)
        names = operators[target.name]
        for number, defect in enumerate(known.values()):
            for place in places if defect.place != "runtime" else ("all",):
                one = names[number % len(names)] if place == "one" else None
                items.extend(
                    Item(
                        stage=stage,
                        target=target,
                        planting=Planting(
                            defect=defect.name, operator=one, strength=strength
                        ),
                        severity=defect.severity,
                        level=level,
                    )
                    for level, strength in levels(defect, strengths)
                )
    return items


def quantized_names(target: Target, description: Description) -> list[str]:
    """Operators that a target's scheme quantizes."""
    found = []
    for name, shape in description.operators:
        kind: Any = "linear" if len(shape) == 2 else "conv"
        # What a scheme does depends on the shape alone, so no weight is needed.
        weight = np.broadcast_to(np.float32(0), shape)
        entry = plan_one(target.scheme, Operator(name=name, kind=kind, weight=weight))
        if entry.weights or entry.activations:
            found.append(name)
    return found


def _bisect(item: Item, stage: Stage, worker: Worker) -> Threshold | None:
    """The smallest strength that is caught, on a logarithmic scale."""
    whole = item.planting
    assert whole is not None  # sanity check
    defect = DEFECTS.get(whole.defect)
    if defect is None or defect.parameter.catalogue == defect.parameter.low:
        return None
    parameter = defect.parameter

    def caught(strength: float) -> bool:
        planting = dataclasses.replace(whole, strength=strength)
        tried = dataclasses.replace(item, planting=planting, level="bisect")
        return stage.trial(tried, worker).caught

    bad, good = parameter.catalogue, parameter.low
    missed: float | None = None
    if caught(good):
        bad = good
    else:
        missed = good
        for _ in range(_STEPS):
            middle = (bad * good) ** 0.5
            if defect.parameter is not SHARE and parameter.low >= 1:
                middle = round(middle)
            if middle in (bad, good):
                break
            if caught(middle):
                bad = middle
            else:
                good = missed = middle
    return Threshold(
        suite=item.stage.suite.name,
        target=item.target.name,
        defect=defect.name,
        parameter=parameter.name,
        caught=bad,
        missed=missed,
    )


def right_cause(trial: Trial, accepted: Mapping[str, Sequence[str]]) -> bool | None:
    """Whether the cause that was named is one of those a defect may be called.

    None: none was named.
    """
    if trial.planting is None or not trial.cause or trial.cause == UNKNOWN:
        return None
    return trial.cause in accepted.get(trial.planting.defect, ())
