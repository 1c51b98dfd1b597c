"""Resampled ratios, means and rises: values, intervals, degenerate data."""

from __future__ import annotations

import math

import numpy as np
import pytest

from harness.judge.statistics.mean import resampled_mean
from harness.judge.statistics.paired_ratio import resampled_rise
from harness.judge.statistics.ratio import by_cluster, pooled


def sample(cases=40, seed=0):
    rng = np.random.default_rng(seed)
    reference = rng.uniform(1, 2, cases)
    return reference * 0.01 * rng.gamma(2, 0.5, cases), reference


def test_the_ratio_is_the_pooled_relative_l2():
    """sqrt(sum of errors / sum of references), with an interval around it."""
    error, reference = sample()
    found = pooled(error, reference, seed=1)
    low, high = found.bounds(0.05)

    assert found.value == pytest.approx(math.sqrt(error.sum() / reference.sum()))
    assert low < found.value < high


def test_bounds_widen_as_the_level_falls_beyond_what_was_resampled():
    """Tails of a large family are extrapolated, never cut off at the last resample."""
    found = pooled(*sample(), seed=1)
    lows, highs = zip(*(found.bounds(10.0**-k) for k in range(1, 9)), strict=True)

    assert list(lows) == sorted(lows, reverse=True)
    assert list(highs) == sorted(highs)
    assert len(set(highs)) == 8


def test_the_interval_is_beyond_a_limit_when_the_p_value_is_small():
    """Test and interval are two views of one distribution."""
    found = pooled(*sample(), seed=1)
    for level in (0.05, 0.01, 1e-4):
        low, _ = found.bounds(level)
        assert found.p_above(low * 0.99) <= level
        assert found.p_above(low * 1.01) > level * 0.8


@pytest.mark.parametrize(
    ("error", "reference", "expected"),
    [
        ([], [], (0.0, 0.0, 0.0)),
        ([0.0, 0.0], [1.0, 1.0], (0.0, 0.0, 0.0)),
        ([1.0, 1.0], [0.0, 0.0], (math.inf, math.inf, math.inf)),
        ([math.inf, 1.0], [1.0, 1.0], (math.inf, math.inf, math.inf)),
        ([0.25], [1.0], (0.5, 0.0, math.inf)),
        ([0.25, 0.5], [1.0, 2.0], (0.5, 0.5, 0.5)),
    ],
)
def test_degenerate_ratios_are_defined(error, reference, expected):
    """None, all zero, zero reference, infinite, one case, no variance."""
    found = pooled(np.array(error), np.array(reference), seed=1)

    assert (found.value, *found.bounds(0.05)) == pytest.approx(expected)


def test_one_case_is_never_beyond_a_limit():
    """Nothing is known of other cases, and the detectable effect says so."""
    found = pooled(np.array([0.25]), np.array([1.0]), seed=1)

    assert found.p_above(0.01) == 1.0
    assert found.detectable(0.01, 0.01, 0.8) == math.inf


def test_clusters_are_drawn_whole():
    """Ten copies of every case are no more evidence than one."""
    error, reference = sample(20)
    clusters = [str(i) for i in range(20) for _ in range(10)]
    once = pooled(error, reference, seed=1)
    copied = pooled(
        np.repeat(error, 10), np.repeat(reference, 10), seed=1, clusters=clusters
    )
    naive = pooled(np.repeat(error, 10), np.repeat(reference, 10), seed=1)

    assert copied.bounds(0.05) == pytest.approx(once.bounds(0.05))
    assert naive.log_error < once.log_error / 2


def test_sums_by_cluster_keep_the_order_of_first_appearance():
    """Names, not positions, make a cluster."""
    sums = by_cluster(np.array([1.0, 2.0, 4.0]), ["b", "a", "b"])

    assert sums.tolist() == [5.0, 2.0]


def test_a_mean_has_an_interval_on_both_sides():
    """And a p-value for either direction."""
    values = np.random.default_rng(2).normal(1.0, 0.2, 50)
    found = resampled_mean(values, seed=1)
    low, high = found.bounds(0.01)

    assert low < values.mean() < high
    assert found.p_above(low - 0.05) < 0.01 < found.p_above(values.mean() - 0.001)
    assert found.p_below(high + 0.05) < 0.01 < found.p_below(values.mean() + 0.001)


@pytest.mark.parametrize(
    ("values", "value", "bounds"),
    [
        ([3.0], 3.0, (0.0, math.inf)),
        ([3.0, 3.0, 3.0], 3.0, (3.0, 3.0)),
        ([0.0, 0.0], 0.0, (0.0, 0.0)),
        ([1.0, math.inf], math.inf, (math.inf, math.inf)),
    ],
)
def test_degenerate_means_are_defined(values, value, bounds):
    """One case, no variance, all zero, infinite."""
    found = resampled_mean(np.array(values), seed=1)

    assert found.value == value
    assert found.bounds(0.05) == bounds


def test_nan_among_scores_is_beyond_every_limit():
    """NaN never satisfies a limit."""
    found = resampled_mean(np.array([0.1, math.nan, 0.2]), seed=1)

    assert found.p_above(1e9) == 0.0
    assert math.isnan(found.value)


def test_a_distance_has_no_negative_lower_bound():
    """What cannot be is not printed."""
    values = np.zeros(30)
    values[:2] = 1.0

    assert resampled_mean(values, seed=1).bounds(0.01)[0] >= 0


def test_pairs_cancel_what_cases_share():
    """A rise of 2% shows although cases differ by far more."""
    error, reference = sample(60)
    noise = np.random.default_rng(5).normal(1.0, 0.01, 60)
    found = resampled_rise(error * 1.04 * noise, error, reference, seed=1)

    assert found.p_above(0.0) < 1e-3
    assert found.bounds(0.01)[0] > 0
    assert resampled_rise(error * noise, error, reference, seed=1).p_above(0) > 0.01


def test_the_same_errors_rose_by_nothing():
    """Exactly zero, with an interval of no width."""
    error, reference = sample()
    found = resampled_rise(error, error, reference, seed=1)

    assert (found.value, *found.bounds(0.01)) == (0.0, 0.0, 0.0)
    assert found.p_above(0.0) == 1.0


@pytest.mark.parametrize(
    ("now", "before", "value"), [([math.inf, 1.0], [1.0, 1.0], math.inf)]
)
def test_an_infinite_rise_is_certain(now, before, value):
    """A case that became garbage."""
    found = resampled_rise(np.array(now), np.array(before), np.ones(2), seed=1)

    assert found.value == value
    assert found.p_above(0.0) == 0.0


def test_one_case_shows_no_rise():
    """One pair has no spread to be judged by."""
    found = resampled_rise(np.array([2.0]), np.array([1.0]), np.ones(1), seed=1)

    assert found.bounds(0.05) == (-math.inf, math.inf)
    assert found.p_above(0.0) == 1.0
