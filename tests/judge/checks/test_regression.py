"""Worse than the last accepted run, or only changed?"""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from harness.judge import judge
from harness.judge.checks.regression import aligned
from harness.judge.evidence import Budget, MetricEvidence
from harness.judge.types import Verdict


def check(make, baseline, **changes):
    return judge(make["evidence"](baseline=baseline, **changes))


def results(judgement):
    return [c for c in judgement.checks if c.check == "regression"]


def test_identical_outputs_end_the_question(make):
    """To the last bit: nothing rose."""
    found = check(make, make["baseline"](identical=True))

    assert found.verdict is Verdict.PASS
    assert found.measurements["regression.drift"].value == 0


def test_a_drift_that_rose_is_a_regression_and_names_the_environment(make):
    """With what differs between the two runs beside it."""
    baseline = make["baseline"](
        drift=make["paired"](0.04),
        same_environment=False,
        differences={"onnxruntime": ("1.20", "1.21")},
    )
    found = check(make, baseline)

    assert found.verdict is Verdict.REGRESSION
    assert "environment: onnxruntime 1.20 -> 1.21" in found.reason
    assert found.measurements["regression.drift"].value == pytest.approx(0.01, rel=0.1)


def test_outputs_that_moved_and_are_not_worse_are_changed(make):
    """Shown, and no failure."""
    found = check(make, make["baseline"](drift=make["paired"](0.05)))

    assert found.verdict is Verdict.CHANGED
    assert found.exit_code == 0


def test_a_drift_that_fell_is_no_regression(make):
    """Better is changed."""
    found = check(make, make["baseline"](drift=make["paired"](0.08)))

    assert found.verdict is Verdict.CHANGED


def test_outputs_that_moved_within_noise_pass(make):
    """The reference moves by as much when nothing changes."""
    baseline = make["baseline"](drift=make["paired"](0.05), moved=make["paired"](1e-4))

    assert check(make, baseline).verdict is Verdict.PASS


@pytest.mark.parametrize("same", [True, False])
def test_without_the_distance_between_the_runs_the_drift_says_whether_it_moved(
    make, same
):
    """A run of before that was kept without its outputs."""
    baseline = make["baseline"](
        moved=None, drift=make["paired"](0.05), same_environment=same
    )

    assert check(make, baseline).verdict is Verdict.PASS


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"problem": "made with another model"}, "made with another model"),
        ({"drift": "other"}, "cases in common=0"),
        ({"drift": "twice"}, "stand twice=1"),
    ],
)
def test_a_baseline_that_cannot_be_paired_is_stale(make, changes, said):
    """Another model, other cases, ids that stand twice."""
    drift = make["paired"](0.05)
    if changes.get("drift") == "other":
        names = tuple(f"other-{i}" for i in range(40))
        changes = {"drift": dataclasses.replace(drift, cases=names)}
    elif changes.get("drift") == "twice":
        names = ("case-1", *drift.cases[1:])
        changes = {"drift": dataclasses.replace(drift, cases=names)}
    found = check(make, make["baseline"](**changes))

    assert found.verdict is Verdict.STALE
    assert said in found.reason


def test_cases_are_paired_by_name(make):
    """Fewer and differently ordered cases compare what both have."""
    now = make["paired"](0.05)
    order = np.arange(39, 9, -1)
    before = dataclasses.replace(
        now,
        cases=tuple(now.cases[i] for i in order),
        error_sq=now.error_sq[order],
        reference_sq=now.reference_sq[order],
    )
    first, second = aligned(now, before)

    assert first.cases == second.cases == now.cases[10:]
    assert first.error_sq.tolist() == second.error_sq.tolist()
    found = check(make, make["baseline"](drift=before, moved=None))
    assert found.measurements["regression.drift"].value == 0
    assert found.measurements["regression.drift"].cases == 30


def test_lost_answers_are_a_regression(make):
    """Right in the baseline, wrong now, by the exact paired test."""
    baseline = make["baseline"](
        drift=None, moved=None, behaviours={"labels": np.ones(40, bool)}
    )
    behaviour = dataclasses.replace(
        make["behaviour"](lost=12), reference_right=np.zeros(40, bool)
    )
    found = check(make, baseline, behaviours=(behaviour,))

    assert found.verdict is Verdict.REGRESSION
    assert "12 lost, 0 gained of 40" in found.reason


def test_answers_are_paired_by_name_and_a_wrong_number_of_them_is_stale(make):
    """A baseline with more cases is paired; one without names must fit."""
    behaviour = make["behaviour"]()
    more = (*reversed(behaviour.cases), "extra")
    fine = make["baseline"](
        behaviours={"labels": np.ones(41, bool)},
        behaviour_cases={"labels": more},
    )
    wrong = make["baseline"](behaviours={"labels": np.ones(7, bool)})

    assert check(make, fine).measurements["regression.labels.loss"].cases == 40
    assert check(make, wrong).verdict is Verdict.STALE


def test_a_slice_that_rose_is_found_behind_the_average(make):
    """Eight long cases of forty, and the rest improved."""
    now = make["paired"](0.05)
    factor = np.where(np.arange(40) < 8, 0.25, 1.2)
    noise = np.exp(0.02 * np.random.default_rng(1).standard_normal(40))
    before = dataclasses.replace(now, error_sq=now.error_sq * factor * noise)
    tags = {f"case-{i}": ("long",) for i in range(8)}
    found = check(make, make["baseline"](drift=before), tags=tags)

    assert found.verdict is Verdict.REGRESSION
    assert "drift[long] rose" in found.reason


def of_metric(values, better="lower"):
    """A metric of forty cases."""
    cases = tuple(f"case-{i}" for i in range(len(values)))
    values = np.asarray(values, float)
    return MetricEvidence(name="y.kl", values=values, cases=cases, better=better)


@pytest.mark.parametrize(("better", "sign"), [("lower", 1), ("higher", -1)])
def test_a_metric_that_got_worse(make, better, sign):
    """With a budget for its rise: a paired test in the direction of worse."""
    before = np.random.default_rng(0).uniform(1, 2, 40)
    rise = sign * np.random.default_rng(1).normal(0.1, 0.05, 40)
    name = "regression.y.kl"
    budgets = {name: Budget(metric=name, limit=0.02, source="suite.toml:3")}
    kept = {"y.kl": of_metric(before, better)}
    baseline = make["baseline"](drift=make["paired"](0.05), metrics=kept)

    def judged(values):
        now = (of_metric(values, better),)
        return check(make, baseline, metrics=now, budgets=budgets)

    worse, gained = judged(before + rise), judged(before - rise)

    assert worse.verdict is Verdict.REGRESSION
    assert "y.kl is worse by 0.1" in worse.reason
    assert gained.verdict is Verdict.CHANGED
    assert gained.measurements[name].value == pytest.approx(-0.1, rel=0.2)


def test_a_metric_that_the_baseline_has_not(make):
    """Its budget cannot be kept: stale, not a pass."""
    name = "regression.y.kl"
    budgets = {name: Budget(metric=name, limit=0.02, source="suite.toml:3")}
    baseline = make["baseline"](drift=make["paired"](0.05))
    metrics = (of_metric(np.ones(40)),)
    found = check(make, baseline, metrics=metrics, budgets=budgets)

    assert found.verdict is Verdict.STALE
    assert "no case of it in common" in found.reason
