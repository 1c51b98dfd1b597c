"""An earlier run of the same targets, as evidence for `regression` and `changed`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from harness.errors import GoldenError
from harness.execution.assemble import Context
from harness.execution.errors_by_case import paired
from harness.execution.jobs import TargetRun
from harness.execution.run_folder import read_report, target_folder
from harness.execution.suite import Suite, Target
from harness.golden.environment import differences, environment, environment_key
from harness.golden.run_store import read_run_outputs
from harness.judge.evidence import BaselineEvidence
from harness.judge.types import Judgement, Report

Array = np.ndarray[Any, np.dtype[Any]]


@dataclass(frozen=True)
class Baseline:
    """A run folder that was accepted."""

    folder: Path
    report: Report

    @classmethod
    def read(cls, folder: Path) -> Baseline:
        """Read the run.

        Raises:
            UsageError: it is not a run that this version reads.
        """
        return cls(folder, read_report(folder))

    @property
    def run(self) -> str:
        """Its run id."""
        return self.report.run

    def evidence(
        self, suite: Suite, target: Target, run: TargetRun, context: Context
    ) -> BaselineEvidence:
        """The same target then, beside what it gave now."""
        today = environment()
        changed = differences(self.report.environment, today)
        same = environment_key(self.report.environment) == environment_key(today)
        name = f"{suite.name}/{target.name}"
        before = next((t for t in self.report.targets if t.name == name), None)
        if before is None:
            return self._problem(same, changed, f"{self.run} has no target {name}")
        try:
            outputs = read_run_outputs(
                target_folder(self.folder, suite.name, target.name)
            )
        except GoldenError as error:
            return self._problem(same, changed, str(error))
        if set(outputs) != {case.id for case in context.description.cases}:
            return self._problem(same, changed, f"{self.run} ran other cases")
        now = _projected(run, context)
        return BaselineEvidence(
            run=self.run,
            same_environment=same,
            differences=changed,
            identical=_identical(outputs, now),
            drift=paired(outputs, now),
            operators={entry.name: entry.unexplained for entry in before.operators},
            behaviours=_behaviours(before),
        )

    def _problem(
        self, same: bool, changed: Mapping[str, tuple[str, str]], text: str
    ) -> BaselineEvidence:
        return BaselineEvidence(
            run=self.run, same_environment=same, differences=changed, problem=text
        )


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
    return all(
        name in second[case]
        and array.shape == second[case][name].shape
        and array.dtype == second[case][name].dtype
        and array.tobytes() == np.ascontiguousarray(second[case][name]).tobytes()
        for case, arrays in first.items()
        for name, array in arrays.items()
    )


def _behaviours(_: Judgement) -> dict[str, Any]:
    return {}
