"""quantharness's side of kl_peer.py: the check of a file alone, and the whole gate."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from harness.backends.llama_cpp_file import Written, read_weights
from harness.backends.protocol import QuantizedTensor
from harness.backends.registry import load_registry
from harness.compare.explained import weight_evidence
from harness.compare.operator_evidence import WeightEvidence
from harness.defects import Planting
from harness.execution.calibrated import calibrated
from harness.execution.isolation import Worker
from harness.execution.jobs import TargetJob
from harness.execution.selftest.causes import right_cause
from harness.execution.selftest.stage import Stage, View, open_stage
from harness.execution.selftest.trial import Trial
from harness.execution.suite import Target, load_suite
from harness.judge.checks.artifact import artifact
from harness.judge.evidence import Evidence, Paired
from harness.judge.levels import Levels
from harness.judge.outcome import Outcome
from harness.schemes.types import Scheme

SUITE = Path(__file__).parents[2] / "suites/smollm2"


class Gate:
    """quantharness: the whole gate of a llama.cpp target, as a run has it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.registry = load_registry(())
        self.suite = load_suite(SUITE / "suite.toml", self.registry)
        self.targets = {
            t.scheme.name: t for t in self.suite.targets if t.backend == "llama.cpp"
        }
        self.worker, self.stage = self._open("as built")
        #: Scheme -> checks that few cases fail without a defect: too few for them.
        self.usual: dict[str, set[str]] = {}

    def _open(self, control: str) -> tuple[Worker, Stage]:
        """A worker, and the suite's cases before a merge, in a way of running."""
        plain = control == "not repacked"
        backend = "llama.cpp@plain" if plain else "llama.cpp"
        worker = Worker(
            log=self.folder / f"{control}.log",
            plugins=(),
            threads=1,
            environment=self.registry.environment(backend),
        )
        return worker, open_stage(self.suite, backend, self.registry, worker)[0]

    def control(self, scheme: str, control: str) -> dict[str, Any]:
        """A clean run, as built or not repacked."""
        if control == "as built":
            return self.measure(scheme, None)
        worker, stage = self._open(control)
        with worker:
            return self.measure(scheme, None, worker, stage)

    def measure(
        self,
        scheme: str,
        planting: Planting | None,
        worker: Worker | None = None,
        stage: Stage | None = None,
    ) -> dict[str, Any]:
        """Verdict, every check that fails, operator and cause; few cases first."""
        worker, stage = worker or self.worker, stage or self.stage
        target = self.targets[scheme]
        if planting is None:
            return _judged(stage, worker, target, None, stage.whole)
        if scheme not in self.usual:
            clean = _judged(stage, worker, target, None, stage.few)
            self.usual[scheme] = set(clean["failing"])
        found = _judged(stage, worker, target, planting, stage.few)
        own = set(found["failing"]) - self.usual[scheme]
        if not own:
            return _judged(stage, worker, target, planting, stage.whole)
        return {**found, "failing": sorted(own)}


def _judged(
    stage: Stage, worker: Worker, target: Target, planting: Planting | None, view: View
) -> dict[str, Any]:
    start = time.perf_counter()
    job = TargetJob(
        suite=view.ref,
        backend=stage.backend,
        scheme=calibrated(target.scheme, stage.golden),
        planting=planting,
    )
    run = worker.run(job, timeout=1800)
    judged = stage._judged(target, run, worker, view)  # noqa: SLF001
    seconds = time.perf_counter() - start
    failing = sorted({c.check for c in judged.checks if c.verdict.fails})
    guilty = [o.name for o in judged.operators if o.guilty]
    told = next((d for d in judged.diagnosis if d["operator"] in guilty), {})
    trial = Trial(
        suite="", target="", planting=planting, cause=str(told.get("defect", ""))
    )
    return {
        "alarm": judged.verdict.fails,
        "verdict": str(judged.verdict),
        "failing": failing,
        "operator": guilty[0] if guilty else "",
        "cause": trial.cause,
        "cause_right": right_cause(trial),
        "cases": len(run.outputs or ()),
        "audit_seconds": round(run.timings["load"] + run.timings["artifact"], 1),
        "seconds": round(seconds, 1),
        "reason": judged.reason[:240],
    }


def file_check(written: Written, scheme: Scheme, model: Any) -> dict[str, Any]:
    """The gate's check of stored weights alone: the file is read, nothing is run."""
    start = time.perf_counter()
    shown = read_weights(written)
    weights = []
    for operator in model.operators():
        weight = shown.get(operator.name)
        if isinstance(weight, QuantizedTensor):
            weights.append(weight_evidence(operator, scheme, weight))
    wrong = [w for w in weights if _outcome(scheme, [w]).results[0].verdict.fails]
    (first, *_) = _outcome(scheme, weights).results
    seconds = time.perf_counter() - start
    return {
        "alarm": first.verdict.fails,
        "operator": wrong[0].operator if wrong else "",
        "reason": first.reason[:240],
        "seconds": round(seconds, 1),
    }


def _outcome(scheme: Scheme, weights: Sequence[WeightEvidence]) -> Outcome:
    # The check wants a case that was compared; of a file none is.
    one = Paired(cases=("file",), error_sq=np.ones(1), reference_sq=np.ones(1))
    evidence = Evidence(
        suite="smollm2",
        backend="llama.cpp",
        scheme=scheme.name,
        seed=0,
        weights=tuple(weights),
        drift=one,
    )
    return artifact(evidence, Levels())
