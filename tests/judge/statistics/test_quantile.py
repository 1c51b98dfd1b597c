"""Quantiles over clustered rows: their bounds hold, and know what they cannot know."""

from __future__ import annotations

import math

import numpy as np
import pytest

from harness.judge.statistics.quantile import clustered_quantile

LEVEL = 0.05


def draw(rng, spread, clusters=60, rows=8):
    """Exponential rows, the scale of each cluster lognormal."""
    return [
        math.exp(spread * rng.normal()) * rng.exponential(size=rows)
        for _ in range(clusters)
    ]


@pytest.mark.parametrize("spread", [0.0, 0.7])
@pytest.mark.parametrize("share", [0.5, 0.9])
def test_each_bound_is_wrong_as_rarely_as_it_says(share, spread):
    """Of 400 samples at level 0.05 at most 35 are (chance 1e-3 if exact)."""
    rng = np.random.default_rng(1)
    many = np.concatenate(draw(rng, spread, clusters=200_000, rows=2))
    true = np.quantile(many, share)
    misses = np.zeros(2)
    for _ in range(400):
        low, high = clustered_quantile(draw(rng, spread), share).bounds(LEVEL)
        misses += low > true, high < true

    assert misses.max() <= 35


def test_clusters_that_repeat_one_row_count_once():
    """Eight equal rows a prompt tell no more than one."""
    rng = np.random.default_rng(2)
    alone = [rng.exponential(size=1) for _ in range(50)]
    repeated = [np.repeat(row, 8) for row in alone]
    one, eight = (clustered_quantile(rows, 0.5) for rows in (alone, repeated))
    blind = clustered_quantile(
        [np.repeat(row, 1) for row in repeated for row in row], 0.5
    )

    low, high = eight.bounds(LEVEL)
    assert high - low > 0.8 * np.subtract(*one.bounds(LEVEL)[::-1])
    assert np.subtract(*blind.bounds(LEVEL)[::-1]) < 0.7 * (high - low)


def test_the_extremes_are_bounded_on_one_side():
    """No sample says how large the largest could be; it can say that it is larger."""
    found = clustered_quantile([np.arange(3.0), np.arange(5.0)], 1.0)

    assert found.value == 4
    assert found.bounds(LEVEL) == (4, math.inf)
    assert found.p_above(3.9) == 0
    assert found.p_above(4.1) == 1
    smallest = clustered_quantile([np.array([-1.0]), np.array([2.0])], 0.0)
    assert smallest.bounds(LEVEL) == (-math.inf, -1)
    assert smallest.p_below(-0.5) == 0


def test_a_rare_quantile_has_no_upper_bound():
    """99.9% of 40 rows: the largest is all that is known."""
    rng = np.random.default_rng(3)
    found = clustered_quantile([rng.exponential(size=1) for _ in range(40)], 0.999)

    assert found.bounds(LEVEL)[1] == math.inf
    assert found.bounds(LEVEL)[0] > 0


def test_a_test_agrees_with_its_bounds():
    """Beyond a bound the p-value is below the level, and within it is not."""
    rng = np.random.default_rng(4)
    found = clustered_quantile(draw(rng, 0.3), 0.9)
    low, high = found.bounds(LEVEL)

    assert found.p_above(low * 0.999) <= LEVEL < found.p_above(low * 1.05)
    assert found.p_below(high * 1.001) <= LEVEL < found.p_below(high * 0.95)
    assert 0 < found.detectable(low, LEVEL, 0.9) < found.value


def test_nan_passes_no_limit():
    """One row that is not a number makes the quantile so."""
    found = clustered_quantile([np.array([1.0, math.nan]), np.ones(2)], 0.5)

    assert math.isnan(found.value)
    assert found.p_above(9.0) == 0
    with pytest.raises(ValueError, match="no rows"):
        clustered_quantile([], 0.5)


def test_one_cluster_bounds_nothing():
    """Of one prompt nothing follows for others."""
    found = clustered_quantile([np.arange(9.0)], 0.5)

    assert found.bounds(LEVEL) == (0.0, math.inf)
    assert found.p_above(1.0) == 1
