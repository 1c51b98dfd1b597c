"""Lost answers, worse scores, slower runs."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from harness.judge import judge
from harness.judge.evidence import (
    Budget,
    LatencyEvidence,
    MetricEvidence,
    WeightEvidence,
)
from harness.judge.types import Verdict


def test_lost_answers_fail_and_are_named(make):
    """With the counts both ways, the p-value and the first cases."""
    found = judge(make["evidence"](behaviours=(make["behaviour"](lost=12, gained=1),)))

    assert found.verdict is Verdict.BEHAVIOUR
    assert "12 lost, 1 gained of 40" in found.reason
    assert "case-0, case-1, case-2 and 9 more" in found.reason


@pytest.mark.parametrize(
    ("gained", "verdict"), [(1, Verdict.BEHAVIOUR), (11, Verdict.PASS)]
)
def test_variants_fail_where_they_are_lost_more_often(make, gained, verdict):
    """Originals that are lost as often are what any change does."""
    entry = dataclasses.replace(
        make["behaviour"](lost=12, gained=gained), variants=True
    )
    found = judge(make["evidence"](behaviours=(entry,)))
    wanted = f"12 lost whose original is right, {gained} right whose original is lost"

    assert found.verdict is verdict
    assert any(wanted in check.reason for check in found.checks)


@pytest.mark.parametrize(
    ("name", "margin"), [("fp8_e4m3", 0.005), ("nvfp4", 0.077), ("fp16", 0.0)]
)
def test_without_a_stated_margin_the_published_one_of_the_format_stands_in(
    make, name, margin
):
    """And says where it was published."""
    weight = WeightEvidence(operator="a", expected=name, found=name)
    found = judge(make["evidence"](weights=(weight,)))
    loss = found.measurements["behaviour.labels.loss"]

    assert loss.budget == margin
    assert "published" in loss.budget_source


def test_what_a_format_costs_anyway_is_no_failure(make):
    """Nine of 100 answers lost: too many for FP8, not beyond NVFP4 for certain."""
    entry = make["behaviour"](lost=9, cases=100)
    for name, verdict in (("fp8_e4m3", Verdict.BEHAVIOUR), ("nvfp4", Verdict.PASS)):
        weight = WeightEvidence(operator="a", expected=name, found=name)
        found = judge(make["evidence"](weights=(weight,), behaviours=(entry,)))
        assert found.verdict is verdict


def test_what_cannot_be_judged_is_said_and_passes(make):
    """With the reason; without one, a behaviour of no case is vacuous."""
    nothing = dataclasses.replace(
        make["behaviour"](), cases=(), reference_right=np.array([], bool)
    )
    nothing = dataclasses.replace(nothing, target_right=np.array([], bool))
    excused = dataclasses.replace(nothing, unjudged="no variant was run")

    found = judge(make["evidence"](behaviours=(excused,)))
    assert found.verdict is Verdict.PASS
    assert "labels: not judged (no variant was run)" in found.reason
    found = judge(make["evidence"](behaviours=(nothing,)))
    assert found.verdict is Verdict.VACUOUS


@pytest.mark.parametrize(("lost", "gained"), [(0, 0), (3, 3), (0, 20), (2, 0)])
def test_ties_gains_and_single_losses_pass(make, lost, gained):
    """All right, all ties, better, and what chance explains."""
    entry = make["behaviour"](lost=lost, gained=gained)

    assert judge(make["evidence"](behaviours=(entry,))).verdict is Verdict.PASS


def test_a_stated_margin_is_forgiven_and_must_be_resolved(make):
    """Within it: pass. Too few cases to tell: inconclusive. Beyond it: fail."""
    for lost, cases, margin, verdict in (
        (4, 400, 0.05, Verdict.PASS),
        (0, 40, 0.02, Verdict.INCONCLUSIVE),
        (80, 400, 0.05, Verdict.BEHAVIOUR),
    ):
        entry = make["behaviour"](lost=lost, cases=cases, margin=margin)
        found = judge(make["evidence"](behaviours=(entry,)))
        assert found.verdict is verdict, (lost, cases, margin)


@pytest.mark.parametrize(
    ("lost", "margin", "verdict"),
    [
        (12, None, Verdict.PASS),
        (36, None, Verdict.BEHAVIOUR),
        (12, 0.05, Verdict.BEHAVIOUR),
    ],
)
def test_what_is_right_because_the_reference_did_it_may_change(
    make, lost, margin, verdict
):
    """No accuracy that was published says how often: most must stay, or as stated."""
    weight = WeightEvidence(operator="a", expected="fp8_e4m3", found="fp8_e4m3")
    entry = dataclasses.replace(
        make["behaviour"](lost=lost, margin=margin), relative=True
    )

    found = judge(make["evidence"](weights=(weight,), behaviours=(entry,)))

    assert found.verdict is verdict


def test_the_smallest_loss_that_would_be_seen_is_stated(make):
    """With every verdict, also a pass."""
    found = judge(make["evidence"]())
    check = next(c for c in found.checks if c.check == "behaviour")

    assert 0 < check.detectable < 1
    assert check.power == 0.8
    assert check.cases == 40


def test_flips_that_cancel_are_judged_by_a_budget_of_their_own(make):
    """As many lost as gained: the average is blind."""
    budget = Budget(metric="behaviour.labels.flips", limit=0.1, source="suite.toml:8")
    entry = make["behaviour"](lost=15, gained=15)
    found = judge(
        make["evidence"](
            behaviours=(entry,), budgets={"behaviour.labels.flips": budget}
        )
    )

    assert found.verdict is Verdict.BEHAVIOUR
    assert "behaviour.labels.flips=0.75" in found.reason


def test_a_behaviour_without_cases_is_vacuous(make):
    """Nothing was asked, so nothing passed."""
    entry = make["behaviour"](cases=0)

    assert judge(make["evidence"](behaviours=(entry,))).verdict is Verdict.VACUOUS


def test_a_slice_that_loses_its_answers_is_found(make):
    """Twelve numeric cases go wrong among four hundred right ones that improve."""
    entry = make["behaviour"](lost=12, gained=12, cases=400)
    tags = {f"case-{i}": ("numbers",) for i in range(20)}
    found = judge(make["evidence"](behaviours=(entry,), tags=tags))

    assert found.verdict is Verdict.BEHAVIOUR
    assert "cases tagged 'numbers'" in found.reason
    assert "behaviour.labels.loss[numbers]" in found.measurements


def test_clustered_answers_count_once(make):
    """Twelve lost answers of one prompt are one event."""
    entry = make["behaviour"](lost=12)
    prompts = tuple("a" if i < 12 else str(i) for i in range(40))
    clustered = dataclasses.replace(entry, clusters=prompts)

    assert judge(make["evidence"](behaviours=(clustered,))).verdict is Verdict.PASS


def score(shift, better="higher"):
    rng = np.random.default_rng(3)
    reference = rng.uniform(0.2, 0.9, 40)
    return MetricEvidence(
        name="token.probability",
        values=reference + shift + 0.02 * rng.standard_normal(40),
        cases=tuple(f"case-{i}" for i in range(40)),
        better=better,
        reference=reference,
    )


def test_a_score_that_is_worse_and_not_only_different_is_drift(make):
    """The right token's probability fell in nearly every case."""
    found = judge(make["evidence"](metrics=(score(-0.03),)))

    assert found.verdict is Verdict.DRIFT
    assert "worse than the reference, not only different" in found.reason


@pytest.mark.parametrize(
    ("shift", "better"), [(0.0, "higher"), (0.05, "higher"), (-0.05, "lower")]
)
def test_a_score_that_only_moved_or_improved_passes(make, shift, better):
    """Different is not worse."""
    found = judge(make["evidence"](metrics=(score(shift, better),)))

    assert found.verdict is Verdict.PASS


def test_a_score_has_a_margin(make):
    """`token.probability.loss = 0.05` allows that much."""
    budget = Budget(metric="token.probability.loss", limit=0.05, source="suite.toml:2")
    found = judge(
        make["evidence"](
            metrics=(score(-0.03),), budgets={"token.probability.loss": budget}
        )
    )

    assert found.verdict is Verdict.PASS


def latency(factor):
    rng = np.random.default_rng(4)
    reference = 0.01 * rng.lognormal(0, 0.05, 60)
    target = 0.01 * factor * rng.lognormal(0, 0.05, 60)
    return LatencyEvidence(phase="run", reference=reference, target=target)


@pytest.mark.parametrize(
    ("factor", "verdict"), [(0.9, Verdict.PASS), (1.5, Verdict.BEHAVIOUR)]
)
def test_a_ratio_of_times_is_judged_against_its_budget(make, factor, verdict):
    """Never an absolute time."""
    budgets = {
        name: Budget(metric=name, limit=1.1, source="suite.toml:6")
        for name in ("cost.run", "cost.run.p95")
    }
    found = judge(make["evidence"](latency=(latency(factor),), budgets=budgets))

    assert found.verdict is verdict
    assert found.measurements["cost.run"].value == pytest.approx(factor, rel=0.05)
    assert "cost.run.p95" in found.measurements


def test_times_without_a_budget_are_shown(make):
    """A slow target without a budget passes, with its ratio."""
    found = judge(make["evidence"](latency=(latency(3.0),)))

    assert found.verdict is Verdict.PASS
    assert found.measurements["cost.run"].budget is None
