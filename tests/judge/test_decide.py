"""The order of checks, and the one object that decides."""

from __future__ import annotations

import numpy as np
import pytest

from harness.judge import judge, judge_run
from harness.judge.evidence import Anomaly, Failure, StabilityEvidence, WeightEvidence
from harness.judge.types import CHECKS, Verdict


def test_a_faultless_target_passes(make):
    """Nothing wrong, nothing raised; and the reason tells what was seen."""
    found = judge(make["evidence"](), run_id="reports/r1")

    assert found.verdict is Verdict.PASS
    assert "drift=0.0" in found.reason
    assert found.command == "quantharness explain reports/r1 toy/torch/fp8_e4m3"
    assert {"drift", "drift.oracle", "unexplained", "unexplained.end_to_end"} <= set(
        found.measurements
    )
    assert {entry.check for entry in found.checks} <= set(CHECKS)


@pytest.mark.parametrize(
    ("kind", "exit_code"), [("error", 3), ("unsupported", 0), ("stale", 1)]
)
def test_a_failure_names_the_verdict_before_any_check(make, kind, exit_code):
    """A run that did not end is judged on nothing else."""
    failure = Failure(kind=kind, message="worker died of signal 9")

    found = judge(make["evidence"](failure=failure, drift=None))

    assert str(found.verdict) == kind
    assert found.reason == "worker died of signal 9"
    assert found.exit_code == exit_code
    assert found.measurements == {}


def test_a_required_target_that_is_unsupported_is_infrastructure(make):
    """Exit code 3, as the contract says."""
    failure = Failure(kind="unsupported", message="no device")

    assert judge(make["evidence"](failure=failure, required=True)).exit_code == 3


BROKEN = {
    "artifact": {
        "weights": (
            WeightEvidence(operator="encoder.0", expected="fp8_e4m3", found="int8"),
        )
    },
    "anomaly": {
        "anomalies": (Anomaly(case="case-1", output="y", kind="nan", detail="3 of 9"),)
    },
    "stability": {
        "stability": (
            StabilityEvidence(
                name="repeat",
                differences=np.array([0.1]),
                limit=0.0,
                limit_source="declared exact",
            ),
        )
    },
}


def _all_broken(make):
    return {
        **BROKEN,
        "explained": {"operators": (make["operator"](residual=0.01),)},
        "distance": {"drift": make["paired"](0.5)},
        "behaviour": {"behaviours": (make["behaviour"](lost=20),)},
    }


VERDICTS = {
    "artifact": Verdict.DEFECT,
    "anomaly": Verdict.DEFECT,
    "stability": Verdict.UNSTABLE,
    "explained": Verdict.DEFECT,
    "distance": Verdict.DRIFT,
    "behaviour": Verdict.BEHAVIOUR,
}


@pytest.mark.parametrize("check", list(VERDICTS))
def test_each_check_fails_by_itself(make, check):
    """Every check has something that it alone catches."""
    found = judge(make["evidence"](**_all_broken(make)[check]))

    assert found.verdict is VERDICTS[check]
    failing = {entry.check for entry in found.checks if entry.verdict.fails}
    assert failing == {check}


@pytest.mark.parametrize("first", range(len(VERDICTS)))
def test_the_first_that_fails_names_the_verdict_and_the_rest_still_run(make, first):
    """With everything from one check on broken, that check speaks."""
    order = list(VERDICTS)[first:]
    changes = {}
    for check in order:
        changes.update(_all_broken(make)[check])

    found = judge(make["evidence"](**changes))

    failing = [entry for entry in found.checks if entry.verdict.fails]
    assert failing[0].check == order[0]
    assert found.reason == failing[0].reason
    assert {entry.check for entry in failing} == set(order)


def test_garbage_is_an_error_and_what_follows_from_it_does_not_name_the_verdict(make):
    """A wrong shape makes the distance infinite; the shape is what went wrong."""
    paired = make["paired"](0.05)
    paired.error_sq[3] = np.inf
    anomaly = Anomaly(case="case-3", output="y", kind="shape", detail="(2,) not (3,)")

    found = judge(make["evidence"](drift=paired, anomalies=(anomaly,)))

    assert found.verdict is Verdict.ERROR
    assert found.exit_code == 3


def test_the_same_evidence_gives_the_same_judgement(make):
    """Every random draw is seeded."""
    first, second = judge(make["evidence"]()), judge(make["evidence"]())

    assert first == second


def test_the_judgement_of_a_run_is_serialised_whole(make):
    """What decides is what is written: verdict, tests, levels and detectable effect."""
    data = judge(make["evidence"](drift=make["paired"](0.5))).as_dict()

    check = next(c for c in data["checks"] if c["check"] == "distance")
    assert data["verdict"] == check["verdict"] == "drift"
    assert data["reason"] == check["reason"]
    assert 0 < check["alpha"] <= 0.01
    assert check["power"] == 0.8
    assert check["detectable"] > 0
    assert check["cases"] == 40


def test_more_targets_hold_every_test_to_a_stricter_level(make):
    """The family is the run, not the target."""
    alone = judge(make["evidence"]())
    many = judge_run([make["evidence"]() for _ in range(20)])[0]

    assert many.operators[0].limit > alone.operators[0].limit


def test_a_nightly_holds_the_false_discovery_rate(make):
    """Its levels are wider than the gate's for the same evidence."""
    broken = make["evidence"](behaviours=(make["behaviour"](lost=9),))
    evidences = [broken] * 5

    nightly = judge_run(evidences, mode="nightly")

    assert {entry.verdict for entry in nightly} == {Verdict.BEHAVIOUR}


def test_every_night_spends_its_share_of_alpha(make):
    """A later night is held to a stricter level than the first."""
    first, tenth = (
        judge_run([make["evidence"]()], mode="nightly", night=night)[0]
        for night in (1, 10)
    )

    assert tenth.checks[-1].alpha == pytest.approx(first.checks[-1].alpha / 100)
