"""A target with more bits is not worse than one with fewer."""

from __future__ import annotations

import numpy as np
import pytest

from harness.judge import judge, judge_run
from harness.judge.checks.ordering import ordering
from harness.judge.evidence import OrderingEvidence
from harness.judge.levels import Levels
from harness.judge.types import Verdict

CASES = tuple(f"case-{i}" for i in range(40))
NAME = "ordering.logits.kl[torch/int4]"


def entry(own, others, **more):
    """Two targets' values of the same cases."""
    return OrderingEvidence(
        other="torch/int4",
        metric=more.pop("metric", "logits.kl"),
        source="suite.toml:30",
        cases=CASES[: len(own)],
        own=np.asarray(own, float),
        others=np.asarray(others, float),
        **more,
    )


def draw(seed, size=0.1, cases=40):
    return size * np.random.default_rng(seed).lognormal(0, 0.5, cases)


def test_worse_than_fewer_bits_is_a_regression(make):
    """With both names, the interval, the p-value and where it was declared."""
    found = judge(make["evidence"](orderings=(entry(draw(1, 0.3), draw(2, 0.1)),)))

    assert found.verdict is Verdict.REGRESSION
    assert "logits.kl is worse by" in found.reason
    assert "torch/int4, which has fewer bits" in found.reason
    assert "suite.toml:30" in found.reason
    measured = found.measurements[NAME]
    assert 0 < measured.low < measured.value < measured.high
    assert (measured.budget, measured.cases) == (0.0, 40)


def test_better_or_the_same_passes_with_its_measurement(make):
    """Fewer errors with more bits; and the same numbers twice."""
    better = entry(draw(1, 0.1), draw(2, 0.3))
    same = entry(draw(1), draw(1), metric="logits.js")
    found = judge(make["evidence"](orderings=(better, same)))

    assert found.verdict is Verdict.PASS
    assert found.measurements[NAME].high < 0
    assert found.measurements["ordering.logits.js[torch/int4]"].value == 0


def test_two_of_the_same_do_not_cry_wolf(make):
    """Draws of one distribution: false alarms at 0.05 are not shown to be more."""
    levels = Levels(alpha=0.05)
    alarms = sum(
        ordering(
            make["evidence"](orderings=(entry(draw(2 * n), draw(2 * n + 1)),)), levels
        )
        .results[0]
        .verdict.fails
        for n in range(200)
    )
    # 200 trials of chance 0.05 give 19 or more with chance 0.006.
    assert alarms < 19


def test_drift_is_pooled_and_may_rise_by_the_noise(make):
    """Squared errors over the reference's squares; the limit is the noise floor."""
    reference = np.full(40, 100.0)
    pooled = {"reference_sq": reference, "metric": "drift"}
    worse = entry(draw(1, 4.0), draw(2, 1.0), **pooled)
    excused = entry(draw(1, 4.0), draw(2, 1.0), limit=0.5, **pooled)

    found = judge(make["evidence"](orderings=(worse,)))
    rise = found.measurements["ordering.drift[torch/int4]"].value
    assert found.verdict is Verdict.REGRESSION
    assert rise == pytest.approx(
        np.sqrt(draw(1, 4.0).sum() / 4000) - np.sqrt(draw(2, 1.0).sum() / 4000)
    )
    assert judge(make["evidence"](orderings=(excused,))).verdict is Verdict.PASS


def test_of_a_score_less_is_worse(make):
    """Agreement that fell is worse, one that rose is not."""
    high, low = 0.9 + draw(1, 0.01), 0.5 + draw(2, 0.01)
    fell, rose = entry(low, high, better="higher"), entry(high, low, better="higher")

    assert judge(make["evidence"](orderings=(fell,))).verdict is Verdict.REGRESSION
    assert judge(make["evidence"](orderings=(rose,))).verdict is Verdict.PASS


def test_cases_of_one_prompt_count_once(make):
    """Forty cases of two prompts show less than forty of forty."""
    values = draw(1, 0.13), draw(2, 0.1)
    prompts = tuple(f"prompt:{i % 2}" for i in range(40))
    apart = judge(make["evidence"](orderings=(entry(*values),))).measurements[NAME]
    together = judge(
        make["evidence"](orderings=(entry(*values, clusters=prompts),))
    ).measurements[NAME]

    assert together.cases == 2
    assert together.high - together.low > apart.high - apart.low


@pytest.mark.parametrize("wrong", [np.nan, np.inf])
def test_what_is_not_finite_is_worse(make, wrong):
    """NaN and infinity in one case; where both are infinite they are equal."""
    values = draw(1)
    spoilt = values.copy()
    spoilt[3] = wrong

    found = judge(make["evidence"](orderings=(entry(spoilt, values),)))
    assert found.verdict is Verdict.REGRESSION
    both = draw(2)
    both[3] = np.inf
    found = judge(make["evidence"](orderings=(entry(both, both.copy()),)))
    assert found.verdict is Verdict.PASS


def test_what_cannot_be_judged_is_said(make):
    """A pair of which one did not run passes; a metric that nobody has does not."""
    alone = OrderingEvidence(
        other="torch/int4", metric="logits.kl", unjudged="torch/int4 was not run"
    )
    nothing = OrderingEvidence(
        other="torch/int4", metric="logits.k1", known=("drift", "logits.kl")
    )

    found = judge(make["evidence"](orderings=(alone,)))
    assert found.verdict is Verdict.PASS
    reasons = [check.reason for check in found.checks]
    assert f"{NAME}: not judged (torch/int4 was not run)" in reasons
    found = judge(make["evidence"](orderings=(nothing,)))
    assert found.verdict is Verdict.VACUOUS
    assert "measured: drift, logits.kl" in found.reason


def test_its_tests_share_the_runs_alpha(make):
    """One more check, so that every other gets less."""
    plain = judge_run([make["evidence"]()] * 2)[0]
    pair = judge_run(
        [make["evidence"](orderings=(entry(draw(1), draw(1)),)), make["evidence"]()]
    )[0]

    def level(judged):
        return next(
            c.alpha for c in judged.checks if c.check == "behaviour" and c.alpha
        )

    assert level(pair) < level(plain)
