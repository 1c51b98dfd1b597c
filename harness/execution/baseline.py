"""An earlier run of the same targets, as evidence for `regression` and `changed`."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from harness.errors import GoldenError
from harness.execution.context import Context
from harness.execution.errors_by_case import paired
from harness.execution.jobs import TargetRun
from harness.execution.run_folder import EVIDENCE, read_report, target_folder
from harness.execution.suite import Suite, Target
from harness.golden.environment import differences, environment, environment_key
from harness.golden.run_store import read_run_outputs, target_environment
from harness.judge.evidence import BaselineEvidence, Evidence
from harness.judge.evidence_file import evidence_from_dict
from harness.judge.types import Report

Array = np.ndarray[Any, np.dtype[Any]]


@dataclass(frozen=True)
class Baseline:
    """A run folder that was accepted."""

    folder: Path
    report: Report
    #: Whether runs of other versions of a backend are compared all the same.
    across_versions: bool = False

    @classmethod
    def read(cls, folder: Path, *, across_versions: bool = False) -> Baseline:
        """Read the run.

        Raises:
            UsageError: it is not a run that this version reads.
        """
        return cls(folder, read_report(folder), across_versions)

    @property
    def run(self) -> str:
        """Its run id."""
        return self.report.run

    def evidence(
        self, suite: Suite, target: Target, run: TargetRun, context: Context
    ) -> BaselineEvidence | None:
        """The same target then, beside what it gave now; None: there was none."""
        name = f"{suite.name}/{target.name}"
        before = next((t for t in self.report.targets if t.name == name), None)
        if before is None:
            return None
        today = environment()
        changed = differences(self.report.environment, today)
        same = environment_key(self.report.environment) == environment_key(today)
        folder = target_folder(self.folder, suite.name, target.name)
        try:
            outputs = read_run_outputs(
                folder,
                where=whereabouts(target, run),
                model=context.golden.model_fingerprint,
                across_versions=self.across_versions,
            )
        except GoldenError as error:
            return BaselineEvidence(
                run=self.run,
                same_environment=same,
                differences=changed,
                problem=str(error),
            )
        now = _projected(run, context)
        then = _evidence(folder)
        return BaselineEvidence(
            run=self.run,
            same_environment=same,
            differences=changed,
            identical=_identical(outputs, now),
            moved=paired(outputs, now),
            drift=paired(context.reference, outputs),
            operators={entry.name: entry.unexplained for entry in before.operators},
            metrics={entry.name: entry for entry in then.metrics} if then else {},
            behaviours={e.name: e.target_right for e in then.behaviours}
            if then
            else {},
            behaviour_cases={e.name: e.cases for e in then.behaviours} if then else {},
            device=then.device if then else None,
        )


def whereabouts(target: Target, run: TargetRun) -> dict[str, Any]:
    """The environment that a target's outputs belong to."""
    found = run.availability
    return target_environment(target.backend, found.version, found.device)


def _projected(run: TargetRun, context: Context) -> dict[str, dict[str, Array]]:
    """Today's outputs in the compact form that a run keeps."""
    golden = context.golden.outputs
    return {
        case: {
            name: golden[case][name].project(array)
            for name, array in arrays.items()
            if name in golden.get(case, {}) and array.shape == golden[case][name].shape
        }
        for case, arrays in run.outputs.items()
    }


def _identical(
    first: Mapping[str, Mapping[str, Array]], second: Mapping[str, Mapping[str, Array]]
) -> bool:
    """Equal to the last bit, NaN and signed zero included."""
    return set(first) == set(second) and all(
        name in second[case]
        and array.shape == second[case][name].shape
        and array.dtype == second[case][name].dtype
        and array.tobytes() == np.ascontiguousarray(second[case][name]).tobytes()
        for case, arrays in first.items()
        for name, array in arrays.items()
    )


def _evidence(folder: Path) -> Evidence | None:
    """What the target was judged on then; None where it was not kept."""
    path = folder / EVIDENCE
    if not path.is_file():
        return None
    data = json.loads(path.read_text(encoding="utf-8"))
    return evidence_from_dict(data, source=str(path))
