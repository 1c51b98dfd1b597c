"""The exact paired test with a margin."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import binom

from harness.judge.statistics.paired_binary import (
    Flips,
    detectable_loss,
    flips,
    loss_bounds,
    loss_p_value,
    share_bounds,
)


def table(lost, gained, cases):
    return Flips(lost=lost, gained=gained, cases=cases)


def test_flips_are_counted_both_ways():
    """Lost and gained answers are not netted away."""
    found = flips([1, 1, 0, 0], [0, 1, 1, 0])

    assert found == table(1, 1, 4)
    assert found.loss == 0
    assert found.share == 0.5


@pytest.mark.parametrize(
    "nothing", [table(0, 0, 0), table(0, 0, 50), table(3, 3, 50), table(0, 5, 50)]
)
def test_no_loss_is_no_evidence(nothing):
    """No cases, no changes, ties and gains all give p = 1."""
    assert loss_p_value(nothing) == 1.0


def test_one_case_can_never_fail():
    """A single lost answer of a single case is a coin flip."""
    assert loss_p_value(table(1, 0, 1)) == pytest.approx(0.5, abs=1e-6)
    assert loss_bounds(table(1, 0, 1), 0.01)[0] < -0.9


def test_it_is_never_weaker_than_the_conditional_test_by_much():
    """The unconditional p-value is at most the binomial one where it matters."""
    for lost, gained, cases in [(7, 0, 60), (12, 3, 200), (26, 7, 1319)]:
        conditional = binom.sf(lost - 1, lost + gained, 0.5)
        assert loss_p_value(table(lost, gained, cases)) <= conditional


def rejection_chance(cases, margin, lost_share, gained_share, level):
    """Exact chance of rejection: the sum over all tables, each tested."""
    total = 0.0
    for gained in range(cases + 1):
        weight = binom.pmf(gained, cases, gained_share)
        if weight < 1e-9:
            continue
        least = next(
            (
                lost
                for lost in range(cases - gained + 1)
                if loss_p_value(table(lost, gained, cases), margin) <= level
            ),
            None,
        )
        if least is not None:
            rest = lost_share / (1 - gained_share)
            total += weight * binom.sf(least - 1, cases - gained, rest)
    return total


@pytest.mark.parametrize("cases", [6, 25])
@pytest.mark.parametrize("margin", [0.0, 0.1])
@pytest.mark.parametrize("gained", [0.0, 0.05, 0.3])
def test_its_size_is_at_most_the_level(cases, margin, gained):
    """At the edge of the null the chance of a false alarm is below alpha, exactly."""
    size = rejection_chance(cases, margin, gained + margin, gained, 0.05)

    assert size <= 0.05


def test_it_has_power():
    """A real loss is found: 30 points of 25 cases, almost always."""
    assert rejection_chance(25, 0.0, 0.5, 0.02, 0.05) > 0.95


def test_bounds_invert_the_test():
    """A loss is beyond a margin exactly when its lower bound is."""
    changed = table(14, 2, 120)
    low, high = loss_bounds(changed, 0.01)

    assert loss_p_value(changed, low - 1e-4) <= 0.01
    assert loss_p_value(changed, low + 1e-4) > 0.01
    assert low < changed.loss < high
    assert loss_bounds(changed.mirrored, 0.01) == pytest.approx((-high, -low))


def test_a_margin_is_forgiven():
    """The same loss is beyond no margin, and within one of ten points."""
    changed = table(12, 1, 150)

    assert loss_p_value(changed) < 0.01
    assert loss_p_value(changed, 0.10) == 1.0


def test_all_right_before_and_all_wrong_now_fails():
    """The largest loss there is has the smallest p-value there is."""
    assert loss_p_value(table(40, 0, 40)) < 1e-6
    assert loss_bounds(table(40, 0, 40), 0.01)[1] == 1.0


def test_the_detectable_loss_shrinks_with_cases_and_grows_with_churn():
    """The root-n law, and noise hides."""
    few, many = table(1, 1, 100), table(100, 100, 10_000)

    assert detectable_loss(many, 0, 0.01, 0.8) < detectable_loss(few, 0, 0.01, 0.8)
    assert detectable_loss(table(9, 9, 100), 0, 0.01, 0.8) > detectable_loss(
        few, 0, 0.01, 0.8
    )
    assert detectable_loss(table(0, 0, 0), 0, 0.01, 0.8) == 1.0


def test_the_detectable_loss_is_detected_with_about_the_stated_power():
    """What we print as detectable is found four times of five, by the exact test."""
    churn = table(1, 1, 100)
    effect = detectable_loss(churn, 0.0, 0.05, 0.8)

    power = rejection_chance(100, 0.0, 0.01 + effect, 0.01, 0.05)

    assert power == pytest.approx(0.8, abs=0.1)


def test_shares_have_exact_bounds():
    """Clopper-Pearson at the ends and in the middle."""
    assert share_bounds(0, 20, 0.05) == (0.0, pytest.approx(1 - 0.05 ** (1 / 20)))
    assert share_bounds(20, 20, 0.05) == (pytest.approx(0.05 ** (1 / 20)), 1.0)
    low, high = share_bounds(7, 20, 0.05)
    assert binom.sf(6, 20, low) == pytest.approx(0.05)
    assert binom.cdf(7, 20, high) == pytest.approx(0.05)
    assert share_bounds(0, 0, 0.05) == (0.0, 1.0)
    assert np.isfinite([low, high]).all()
