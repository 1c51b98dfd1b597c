"""Beyond the budget, within it, or not resolved."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from harness.judge import judge
from harness.judge.checks.distance import distance
from harness.judge.evidence import Budget, MetricEvidence, RowsEvidence
from harness.judge.levels import Levels
from harness.judge.types import Verdict


def budgets(limit, **more):
    entry = Budget(metric="drift", limit=limit, source="suite.toml:9", **more)
    return {"drift": entry}


def metric(values, better="lower"):
    return MetricEvidence(
        name="y.kl",
        values=np.array(values),
        cases=tuple(f"case-{i}" for i in range(len(values))),
        better=better,
    )


def test_it_fails_only_with_the_whole_interval(make):
    """A value beyond the budget whose interval straddles is not yet a failure."""
    drift = make["paired"](0.1)
    value = drift.ratio
    for limit, verdict in (
        (value * 0.5, Verdict.DRIFT),
        (value * 0.99, Verdict.PASS),
        (value * 1.01, Verdict.PASS),
        (value * 2.0, Verdict.PASS),
    ):
        found = distance(
            make["evidence"](drift=drift, budgets=budgets(limit)), Levels()
        )
        assert found.results[0].verdict is verdict, limit


def test_a_straddling_interval_that_is_too_wide_is_inconclusive(make):
    """The smallest effect seen is printed beside what is allowed."""
    drift = make["paired"](0.1, cases=3, spread=1.5)
    found = judge(make["evidence"](drift=drift, budgets=budgets(drift.ratio)))

    assert found.verdict is Verdict.INCONCLUSIVE
    assert found.exit_code == 3
    assert "add cases" in found.reason


def test_the_margin_says_what_must_be_resolved(make):
    """The same data are enough for a wide margin and not for a narrow one."""
    drift = make["paired"](0.1)
    for margin, verdict in ((0.05, Verdict.PASS), (0.0005, Verdict.INCONCLUSIVE)):
        evidence = make["evidence"](
            drift=drift, budgets=budgets(drift.ratio, margin=margin)
        )
        assert judge(evidence).verdict is verdict


def test_one_case_is_inconclusive(make):
    """Nothing is known of any other."""
    found = judge(make["evidence"](drift=make["paired"](0.5, cases=1)))

    assert found.verdict is Verdict.INCONCLUSIVE


@pytest.mark.quant_slow
def test_the_smallest_effect_that_is_printed_is_found_as_often_as_stated(make):
    """Targets whose drift is beyond the budget by it fail four times of five."""
    fails = 0
    repeats = 200
    evidence = make["evidence"](drift=make["paired"](0.1, seed=99))
    level = Levels(alpha=0.05)
    effect = distance(evidence, level).results[0].detectable
    for seed in range(repeats):
        drift = make["paired"](0.1, seed=seed)
        # The mean of a log-normal error is exp(spread^2 / 2) times its median.
        truth = 0.1 * np.exp(0.2**2 / 4)
        limit = truth / (1 + effect / 0.1)
        found = distance(
            make["evidence"](drift=drift, budgets=budgets(limit)), level
        ).results[0]
        fails += found.verdict is Verdict.DRIFT

    # Four standard errors of 200 trials at 80%.
    assert fails / repeats == pytest.approx(0.8, abs=0.115)


def test_better_than_possible_is_a_broken_test(make):
    """A two-sided budget catches a target that was not quantized enough."""
    evidence = make["evidence"](
        drift=make["paired"](0.01), budgets=budgets(0.1, least=0.03)
    )
    found = judge(evidence)

    assert found.verdict is Verdict.VACUOUS
    assert "better than the scheme can be" in found.reason


def test_without_a_budget_theory_limits_the_drift(make):
    """The operators' own rounding errors, added as independent."""
    fine = judge(make["evidence"](budgets={}))
    broken = judge(make["evidence"](budgets={}, drift=make["paired"](0.5)))

    assert fine.measurements["drift"].budget == pytest.approx(0.02**0.5)
    assert "theory" in fine.measurements["drift"].budget_source
    assert broken.verdict is Verdict.DRIFT


def test_a_metric_with_a_budget_is_judged_and_others_are_shown(make):
    """`y.kl` in the suite's budget."""
    values = np.random.default_rng(1).gamma(4, 0.01, 40)
    shown = judge(make["evidence"](metrics=(metric(values),)))
    limit = {"y.kl": Budget(metric="y.kl", limit=0.01, source="suite.toml:5")}
    failed = judge(make["evidence"](metrics=(metric(values),), budgets=limit))

    assert shown.verdict is Verdict.PASS
    assert shown.measurements["y.kl"].budget is None
    assert failed.verdict is Verdict.DRIFT
    assert "y.kl=" in failed.reason


def test_where_higher_is_better_the_other_end_counts(make):
    """A similarity that is too low for certain."""
    values = np.random.default_rng(1).normal(0.8, 0.01, 40)
    limit = {"y.kl": Budget(metric="y.kl", limit=0.9, source="suite.toml:5")}
    high = make["evidence"](metrics=(metric(values, "higher"),), budgets=limit)
    fine = make["evidence"](metrics=(metric(values + 0.2, "higher"),), budgets=limit)

    assert judge(high).verdict is Verdict.DRIFT
    assert judge(fine).verdict is Verdict.PASS


def test_a_budget_for_nothing_is_not_kept(make):
    """A misspelt metric must not pass."""
    limit = {"logit.kl": Budget(metric="logit.kl", limit=1.0, source="suite.toml:5")}
    found = judge(make["evidence"](budgets=limit))

    assert found.verdict is Verdict.VACUOUS
    assert "'logit.kl' names nothing that was measured" in found.reason


def test_a_slice_with_a_budget_is_judged(make):
    """Long cases that drift while the average stays."""
    drift = make["paired"](0.05)
    drift.error_sq[:6] *= 9
    tags = {f"case-{i}": ("long",) for i in range(6)}
    slice_budget = Budget(metric="drift[long]", limit=0.08, source="suite.toml:7")
    evidence = make["evidence"](
        drift=drift, tags=tags, budgets={**budgets(0.1), "drift[long]": slice_budget}
    )

    assert judge(evidence).verdict is Verdict.DRIFT
    assert "drift[long]" in judge(evidence).reason
    assert judge(dataclasses.replace(evidence, tags={})).verdict is Verdict.VACUOUS


@pytest.mark.parametrize(("better", "sign"), [("lower", 1), ("higher", -1)])
def test_a_metrics_slice_with_a_budget_is_judged(make, better, sign):
    """The average keeps its budget, the long cases do not."""
    values = np.random.default_rng(2).uniform(0.9, 1.1, 40)
    values[:6] *= 3.0
    metric = MetricEvidence(
        name="y.kl",
        values=sign * values,
        cases=tuple(f"case-{i}" for i in range(40)),
        better=better,
    )
    named = {
        name: Budget(metric=name, limit=sign * limit, source="suite.toml:8")
        for name, limit in (("y.kl", 2.0), ("y.kl[long]", 2.0))
    }
    tags = {f"case-{i}": ("long",) for i in range(6)}
    evidence = make["evidence"](metrics=(metric,), tags=tags, budgets=named)
    found = judge(evidence)

    assert found.verdict is Verdict.DRIFT
    assert "y.kl[long]" in found.reason
    assert found.measurements["y.kl[long]"].cases == 6
    for wrong in ({}, {f"case-{i}": ("long",) for i in range(40)}):
        none = judge(dataclasses.replace(evidence, tags=wrong))
        assert none.verdict is Verdict.VACUOUS
        assert "y.kl[long]" in none.reason


def test_clusters_widen_the_interval(make):
    """Cases of one document are one piece of evidence."""
    drift = make["paired"](0.05, spread=0.01)
    drift.error_sq[:10] *= 4
    together = dataclasses.replace(
        drift, clusters=tuple(str(i // 10) for i in range(40))
    )
    alone = distance(make["evidence"](drift=drift), Levels()).measurements[0]
    whole = distance(make["evidence"](drift=together), Levels()).measurements[0]

    assert whole.value == pytest.approx(alone.value)
    assert whole.high - whole.low > alone.high - alone.low
    assert whole.cases == 4


def test_a_budget_may_be_relative_to_the_oracle(make):
    """What the backend adds to what the scheme costs anyway."""
    limit = {
        "drift": Budget(metric="drift", limit=1.0, source="suite.toml:1"),
        "drift.relative": Budget(
            metric="drift.relative", limit=1.1, source="suite.toml:2"
        ),
    }
    fine = judge(make["evidence"](budgets=limit))
    worse = judge(make["evidence"](budgets=limit, drift=make["paired"](0.1)))

    assert fine.verdict is Verdict.PASS
    assert fine.measurements["drift.relative"].value == pytest.approx(1.0)
    assert worse.verdict is Verdict.DRIFT
    assert "drift.relative=2" in worse.reason


def test_slack_is_shown_in_standard_errors(make):
    """How far the budget is, in what the cases themselves vary by."""
    found = judge(make["evidence"]()).measurements["drift"]

    assert found.slack_sigma == pytest.approx((0.1 - found.value) / found.error)
    assert found.slack_sigma > 10


def test_a_quantile_over_tokens_has_a_budget_of_its_own(make):
    """A few tokens far off leave the mean in its budget, and the p99 beyond its own."""
    rng = np.random.default_rng(6)
    by_case = [np.abs(rng.normal(size=8)) * 1e-3 for _ in range(60)]
    for rows in by_case[::4]:
        rows[3] = 2.0
    found = make["evidence"](
        drift=make["paired"](0.1, cases=60),
        budgets={
            "y.kl.p95": Budget(metric="y.kl.p95", limit=0.1, source="suite.toml:9"),
            "y.kl.median": Budget(metric="y.kl.median", limit=0.1, source="s:1"),
        },
        rows=(
            RowsEvidence(
                name="y.kl",
                rows=tuple(by_case),
                cases=tuple(f"case-{i}" for i in range(60)),
                quantiles={"median": 0.5, "p95": 0.95, "p99": 0.99},
            ),
        ),
    )
    outcome = distance(found, Levels())
    measured = {m.name: m for m in outcome.measurements}
    verdicts = {r.measurement: r.verdict for r in outcome.results}

    assert measured["y.kl.median"].value < 1e-3
    assert 2.0 == measured["y.kl.p99"].value
    assert verdicts["y.kl.median"] is Verdict.PASS
    assert "y.kl.p99" not in verdicts
    wide = dataclasses.replace(
        found,
        budgets={
            "y.kl.p99": Budget(metric="y.kl.p99", limit=0.1, source="suite.toml:9")
        },
    )
    (beyond,) = [
        r for r in distance(wide, Levels()).results if r.measurement == "y.kl.p99"
    ]
    assert beyond.verdict is Verdict.DRIFT
    assert "binomial rank test" in beyond.test
