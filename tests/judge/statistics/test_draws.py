"""Few draws of a device: intervals, means and tails."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from scipy import stats

from harness.judge.statistics.draws import (
    channel_p_value,
    draws_needed,
    interval,
    mean_above,
    mean_apart,
    mean_moved,
    mean_rose,
    rise,
    tail_rose,
)

RNG = np.random.default_rng(3)
NOW, BEFORE = RNG.normal(1.3, 0.4, 9), RNG.normal(1.0, 0.2, 14)


def test_the_mean_is_tested_as_by_student():
    """SciPy's one-sample test gives the same chance."""
    expected = stats.ttest_1samp(NOW, 1.1, alternative="greater").pvalue

    assert pytest.approx(expected) == mean_above(NOW, 1.1)


def test_two_means_are_tested_as_by_welch():
    """SciPy's test without equal variances gives the same chances."""
    one = stats.ttest_ind(NOW, BEFORE, equal_var=False, alternative="greater").pvalue
    two = stats.ttest_ind(NOW, BEFORE, equal_var=False).pvalue

    assert pytest.approx(one) == mean_rose(NOW, BEFORE)
    assert pytest.approx(two) == mean_moved(NOW, BEFORE)
    assert pytest.approx(two) == mean_moved(BEFORE, NOW)


def test_the_interval_is_where_the_test_turns():
    """At its lower end the p-value is the level."""
    low, high = interval(NOW, 0.01)

    assert pytest.approx(0.01) == mean_above(NOW, low)
    assert pytest.approx(0.01) == mean_above(-NOW, -high)


def test_the_rise_has_the_bounds_of_its_test():
    """Moved down by its lower bound, the new set is just beyond the old."""
    value, low, _ = rise(NOW, BEFORE, 0.01)

    assert pytest.approx(NOW.mean() - BEFORE.mean()) == value
    assert pytest.approx(0.01) == mean_rose(NOW - low, BEFORE)


def test_a_reach_is_allowed_on_both_sides():
    """A mean inside gives no evidence, one beyond on either side the same."""
    values = RNG.normal(0.0, 0.01, 12)

    assert mean_apart(values, 0.05) == 1.0
    assert mean_apart(values + 0.5, 0.05) < 1e-9
    assert mean_apart(-values - 0.5, 0.05) == mean_apart(values + 0.5, 0.05)


def test_values_that_are_not_finite_are_beyond_every_limit():
    """NaN and Inf never pass, unless the baseline had them too."""
    broken = np.array([1.0, math.nan, 1.0])
    assert mean_above(broken, 100.0) == 0.0
    assert mean_rose(broken, BEFORE) == 0.0
    assert mean_rose(broken, broken) == 1.0
    assert interval(broken, 0.05) == (-math.inf, math.inf)
    assert tail_rose(broken, BEFORE) < 1.0


def test_one_draw_says_nothing():
    """Without a spread there is no evidence."""
    one = np.array([5.0])
    assert mean_above(one, 1.0) == 1.0
    assert mean_rose(one, BEFORE) == 1.0
    assert rise(one, BEFORE, 0.01)[1:] == (-math.inf, math.inf)


def test_equal_draws_are_judged_exactly():
    """Where nothing varies the comparison decides."""
    same = np.full(4, 2.0)
    assert mean_above(same, 1.9) == 0.0
    assert mean_above(same, 2.0) == 1.0
    assert mean_rose(same, same) == 1.0
    assert mean_rose(same + 0.1, same) == 0.0


def test_exceedances_are_counted_exactly():
    """Over all ways to deal 4 + 3 ranks, the p-value is the share as extreme."""
    ranks = range(7)
    dealt = [set(chosen) for chosen in itertools.combinations(ranks, 4)]
    for wanted in range(5):
        extreme = sum(
            sum(r > max(set(ranks) - chosen) for r in chosen) >= wanted
            for chosen in dealt
        )
        now = np.array([10.0] * wanted + [0.0] * (4 - wanted))
        p = tail_rose(now, np.array([1.0, 2.0, 3.0]))
        assert pytest.approx(extreme / len(dealt)) == p


def test_a_wider_spread_wants_more_draws():
    """Stein: as many as the squared spread in units of the half width."""
    values = np.array([-1.0, 1.0] * 4)
    reach = stats.t.isf(0.025, 7) * values.std(ddof=1)
    assert draws_needed(values, reach / 5, 0.025) == 25
    assert draws_needed(values, 100.0, 0.025) == 8
    assert draws_needed(np.array([1.0, math.nan]), 0.1, 0.025) == 2


@pytest.mark.parametrize("power", [1, 4])
def test_the_worst_channel_is_held_to_the_largest_of_many(power):
    """Clean channels alarm in at most a share of sets, however heavy their tails."""
    alarms = 0
    for _ in range(400):
        ratios = RNG.chisquare(1, (6, 200)) ** power
        ratios /= {1: 1, 4: 105}[power]
        least = float(ratios.min(axis=0).max())
        alarms += channel_p_value(least, 6, 200) <= 0.05
    # Binomial(400, 0.05) is above 36 with chance below 1e-3.
    assert alarms <= 36
    assert channel_p_value(8.0, 12, 1000) < 1e-7
    assert channel_p_value(1e6, 1, 10**7) == 1.0
    assert channel_p_value(math.inf, 1, 10) == channel_p_value(math.nan, 1, 10) == 0.0
    assert channel_p_value(0.0, 3, 10) == channel_p_value(1.0, 3, 10) == 1.0
