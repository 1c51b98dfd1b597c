"""quantharness itself: the gate on all cases, as `quantharness run` has it.

It is given the planting, not the file, and plants it the same way: its own build of
the scheme, the same seed. Nothing of the clean quantized model is known to it.
"""

from __future__ import annotations

import dataclasses
import os
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import count_runs
from planted import Bench, Specimen

from harness.execution.isolation import Worker
from harness.execution.selftest.causes import right_cause
from harness.execution.selftest.stage import Item, open_stage

HERE = Path(__file__).parent


class Ours:
    """A worker for the usual run and one for each other way of running."""

    def __init__(self, bench: Bench, folder: Path) -> None:
        self.bench = bench
        self.folder = folder
        self.counts = folder / f"{bench.suite.name}.runs"
        self.counts.write_bytes(b"")
        os.environ[count_runs.VARIABLE] = str(self.counts)
        self.workers: dict[str, Worker] = {}
        self.stages: dict[str, Any] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for worker in self.workers.values():
            worker.close()

    def _open(self, control: str) -> tuple[Any, Worker]:
        if control not in self.stages:
            suite, registry = self.bench.suite, self.bench.registry
            backend = "onnxruntime"
            if control == "unoptimized":
                backend += "@unoptimized"
            worker = Worker(
                log=self.folder / f"{suite.name}-{control}.log",
                plugins=[str(HERE / "count_runs.py")],
                threads=2 if control == "threads" else 1,
                environment=registry.environment(backend),
            )
            self.workers[control] = worker
            stage, _ = open_stage(suite, backend, registry, worker)
            ref = dataclasses.replace(stage.whole.ref, batch=self.bench.size(control))
            stage.whole = dataclasses.replace(stage.whole, ref=ref)
            self.stages[control] = stage
        return self.stages[control], self.workers[control]

    def measure(self, specimen: Specimen) -> dict[str, Any]:
        """Verdict, operator, cause and how many runs."""
        stage, worker = self._open(specimen.control)
        # Of the variant without the optimizer too, with the usual target's budgets.
        target = self.bench.targets[specimen.scheme]
        item = Item(
            stage=stage,
            target=target,
            planting=specimen.planting,
            severity=specimen.severity,
            level=specimen.level,
        )
        before = self.counts.stat().st_size
        trial = stage.trial(item, worker, whole=True)
        right = right_cause(trial)
        return {
            "alarm": trial.caught,
            "verdict": trial.verdict,
            "reason": "" if trial.planting else trial.reason,
            "unfit": trial.unfit,
            "operator": trial.operator,
            "cause": trial.cause,
            "confidence": round(trial.confidence, 3),
            "cause_right": right,
            "runs": self.counts.stat().st_size - before,
        }
