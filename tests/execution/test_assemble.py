"""From a worker's run to the judge's evidence."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest

from harness.backends.protocol import Availability
from harness.behaviours.types import Answer
from harness.execution.assemble import Context, assemble
from harness.execution.jobs import CaseInfo, Description, OracleRun, TargetRun
from harness.golden.store import Golden, compact
from harness.judge.evidence import LatencyEvidence
from harness.models.types import TensorSpec

CASES = ("a", "b", "c")
REFERENCE = {case: {"y": np.arange(1.0, 4.0)} for case in CASES}


class Kind:
    """Every answer is right."""

    name = "fine"

    def evaluate(self, cases, _outputs, _options, _metadata):
        """One answer a case."""
        return {case.id: Answer("yes", right=True) for case in cases}


def context(tags):
    """A suite of three cases with these tags."""
    behaviour = SimpleNamespace(name="fine", kind="fine", options={}, margin=None)
    golden = Golden(
        suite="s",
        model_fingerprint="",
        cases_fingerprint="",
        outputs={c: {"y": compact(a["y"])} for c, a in REFERENCE.items()},
        behaviours={"fine": {c: {"answer": "yes", "right": True} for c in CASES}},
    )
    return Context(
        suite=SimpleNamespace(name="s", seed=1, behaviours=(behaviour,)),
        description=Description(
            model_fingerprint="",
            cases_fingerprint="",
            cases=tuple(
                CaseInfo(id=c, expected={}, tags=tags.get(c, ())) for c in CASES
            ),
            outputs=(TensorSpec("y", "float64", (3,)),),
            metadata={},
        ),
        golden=golden,
        reference=REFERENCE,
        behaviours={"fine": Kind()},
        metrics={},
    )


def assembled(tags, **run):
    """Evidence of a target that is a tenth off."""
    outputs = {c: {"y": 1.1 * a["y"]} for c, a in REFERENCE.items()}
    scheme = SimpleNamespace(name="fp8", weight_only=True)
    return assemble(
        context(tags),
        SimpleNamespace(backend="b", scheme=scheme, required=False),
        TargetRun(availability=Availability(available=True), outputs=outputs, **run),
        oracle=OracleRun(outputs=outputs, backend="b"),
        baseline=None,
        budgets={},
    )


def test_documents_and_prompts_reach_every_paired_measurement():
    """Drift, oracle, target against oracle, and the answers."""
    found = assembled({"a": ("prompt:1",), "b": ("prompt:1",)})
    wanted = ("prompt:1", "prompt:1", "case:c")

    assert wanted == found.drift.clusters
    assert wanted == found.oracle_drift.clusters == found.end_to_end.clusters
    assert wanted == found.behaviours[0].clusters


def test_cases_without_a_source_stand_alone():
    """No clusters at all: every case its own."""
    assert assembled({"a": ("long",)}).drift.clusters is None


def test_metrics_and_times_are_filled():
    """What the catalogue measures, and what the worker timed."""
    times = LatencyEvidence(phase="run", reference=np.ones(3), target=np.ones(3))
    found = assembled({}, latency=(times,))
    values = {entry.name: entry.values for entry in found.metrics}

    assert (times,) == found.latency
    assert pytest.approx(0.1) == values["y.relative_l2"][0]
    assert "dB" in {entry.unit for entry in found.metrics}
