"""Evidence that was written can be judged again."""

from __future__ import annotations

import json

import numpy as np
import pytest

from harness.errors import UsageError
from harness.judge import judge
from harness.judge.evidence import (
    Acknowledgement,
    Anomaly,
    Evidence,
    Failure,
    LatencyEvidence,
    MetricEvidence,
    StabilityEvidence,
)
from harness.judge.evidence_file import evidence_as_dict, evidence_from_dict


def there_and_back(evidence):
    text = json.dumps(evidence_as_dict(evidence), allow_nan=False)
    return evidence_from_dict(json.loads(text))


def whole(make):
    """Every field filled."""
    return make["evidence"](
        baseline=make["baseline"](
            behaviours={"labels": np.ones(40, bool)},
            differences={"cpu": ("a", "b")},
            operators={"encoder.0": 0.1},
        ),
        metrics=(
            MetricEvidence(
                name="y.kl",
                values=np.array([0.1, np.inf]),
                cases=("a", "b"),
                reference=np.array([0.2, np.nan]),
            ),
        ),
        stability=(
            StabilityEvidence(
                name="repeat",
                differences=np.zeros(2),
                limit=0.0,
                limit_source="declared exact",
            ),
        ),
        latency=(
            LatencyEvidence(phase="run", reference=np.ones(4), target=np.full(4, 1.5)),
        ),
        anomalies=(Anomaly(case="a", output="y", kind="zero", detail="all"),),
        acknowledgements=(
            Acknowledgement(
                target="*",
                check="distance",
                metric="",
                limit=0.5,
                operators={"encoder.0": 0.4},
                reason="r",
                author="a",
                expires="2030-01-01",
                source="budgets.toml:1",
            ),
        ),
        tags={"case-1": ("long",)},
        timings={"run": 1.5},
    )


def test_what_was_written_is_judged_alike(make):
    """Every field comes back, also numbers that are not finite."""
    first = whole(make)
    second = there_and_back(first)

    assert evidence_as_dict(second) == evidence_as_dict(first)
    assert judge(second).as_dict() == judge(first).as_dict()
    assert np.isinf(second.metrics[0].values[1])
    assert second.behaviours[0].target_right.dtype == bool


def test_a_failure_comes_back():
    """Also evidence that holds nothing else."""
    evidence = Evidence(
        suite="s",
        backend="b",
        scheme="f",
        seed=1,
        failure=Failure(kind="error", message="died"),
    )

    assert there_and_back(evidence) == evidence


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (None, "schema=None"),
        ({"schema": 99}, "schema=99"),
        ({"schema": 1}, "not whole evidence"),
        ({"schema": 1, "evidence": {"suite": "s"}}, "not whole evidence"),
        ({"schema": 1, "evidence": 3}, "not whole evidence"),
    ],
)
def test_what_is_not_evidence_is_refused_by_name(data, said):
    """With the file it came from."""
    with pytest.raises(UsageError, match=said) as caught:
        evidence_from_dict(data, source="reports/x/evidence.json")

    assert "reports/x/evidence.json" in str(caught.value)
