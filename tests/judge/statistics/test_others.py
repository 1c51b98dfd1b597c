"""Noise energy, sign flips, sequential bets and times in turns."""

from __future__ import annotations

import math

import numpy as np
import pytest

from harness.judge.interleave import interleave
from harness.judge.statistics.latency import speed_ratio
from harness.judge.statistics.paired_binary import Flips
from harness.judge.statistics.quadratic import energy_factor, energy_p_value
from harness.judge.statistics.sequential import Wealth, spent_alpha
from harness.judge.statistics.sign_flip import sign_flip_p_value


@pytest.mark.parametrize("shared", [0.0, 0.3, 0.9, 1.0])
def test_the_energy_bound_holds_for_every_dependence(shared):
    """Independent, partly and wholly shared noise exceed it at most as stated."""
    rng = np.random.default_rng(4)
    common = rng.standard_normal((20_000, 1))
    own = rng.standard_normal((20_000, 64))
    noise = math.sqrt(shared) * common + math.sqrt(1 - shared) * own
    energy = np.square(noise).mean(axis=1)

    exceeded = (np.sqrt(energy) > energy_factor(0.01)).mean()

    # Three standard errors of 20,000 draws at 1%.
    assert exceeded <= 0.01 + 3 * math.sqrt(0.01 * 0.99 / 20_000)


def test_the_energy_factor_and_its_p_value_agree():
    """One is the inverse of the other."""
    for level in (0.1, 0.01, 1e-5):
        assert energy_p_value(energy_factor(level) ** 2, 1.0) == pytest.approx(level)


def test_degenerate_energies_are_defined():
    """Nothing seen, nothing expected, not finite."""
    assert energy_p_value(0.0, 0.0) == 1.0
    assert energy_p_value(1e-30, 0.0) == 0.0
    assert energy_p_value(math.nan, 1.0) == energy_p_value(math.inf, 1.0) == 0.0


def test_sign_flips_are_exact_for_few_cases():
    """Five positive differences of five: one pattern of 32."""
    assert sign_flip_p_value(np.ones(5), seed=1) == 1 / 32
    assert sign_flip_p_value(-np.ones(5), seed=1) == 1.0


def test_sign_flips_without_evidence():
    """No case, all ties and an infinite difference are defined."""
    assert sign_flip_p_value(np.empty(0), seed=1) == 1.0
    assert sign_flip_p_value(np.zeros(9), seed=1) == 1.0
    assert sign_flip_p_value(np.array([math.inf, 1.0]), seed=1) == 0.0


def test_sign_flips_are_drawn_for_many_cases_and_bounded_beyond_the_draws():
    """A large effect is not cut off at one over the number of draws."""
    rng = np.random.default_rng(6)

    assert sign_flip_p_value(rng.standard_normal(100), seed=1) > 0.01
    assert sign_flip_p_value(1 + 0.1 * rng.standard_normal(100), seed=1) < 1e-8


def test_clusters_flip_together():
    """Ten copies of four cases are four pieces of evidence."""
    values = np.repeat([1.0, 2.0, 1.5, 0.5], 10)
    clusters = [str(i) for i in range(4) for _ in range(10)]

    assert sign_flip_p_value(values, seed=1, clusters=clusters) == 1 / 16


def test_looking_every_night_stays_below_alpha():
    """365 nights of churn without a loss: the bet seldom ever wins."""
    rng = np.random.default_rng(8)
    ever = 0
    for _ in range(300):
        lost = np.cumsum(rng.binomial(10, 0.5, 365))
        gained = 10 * np.arange(1, 366) - lost
        best = max(
            Wealth(nights=0, lost=int(a), gained=int(b)).log_value
            for a, b in zip(lost[::30], gained[::30], strict=True)
        )
        ever += best >= math.log(1 / 0.05)

    # Exact upper bound of what 5% allows in 300 trials with chance 0.999.
    assert ever <= 28


def test_a_slow_loss_is_found_in_time():
    """Six lost for four gained a night is certain within two months."""
    state = Wealth()
    for _ in range(60):
        state = state.after(Flips(lost=6, gained=4, cases=500))

    assert state.p_value < 1e-3
    assert state.nights == 60
    assert Wealth.from_dict(state.as_dict()) == state
    assert Wealth().p_value == 1.0


def test_nightly_alpha_is_spent_once():
    """All nights together spend alpha and no more."""
    spent = sum(spent_alpha(0.05, night) for night in range(1, 100_000))

    assert spent == pytest.approx(0.05, rel=1e-4)
    with pytest.raises(ValueError, match="night=0"):
        spent_alpha(0.05, 0)


def test_times_are_taken_in_turns_after_a_warm_up():
    """Who goes first alternates; the warm-up is not counted."""
    calls = []
    ticks = iter(range(1000))

    found = interleave(
        lambda: calls.append("r"),
        lambda: calls.append("t"),
        phase="run",
        pairs=3,
        warm_up=1,
        clock=lambda: float(next(ticks)),
    )

    assert "".join(calls) == "rt" + "rt" + "tr" + "rt"
    assert found.reference.tolist() == found.target.tolist() == [1.0, 1.0, 1.0]
    with pytest.raises(ValueError, match="pairs=0"):
        interleave(calls.clear, calls.clear, phase="run", pairs=0)


def test_a_slow_target_is_found_and_drift_of_the_clock_is_not():
    """A machine that slows both does not change the ratio."""
    rng = np.random.default_rng(9)
    mood = np.linspace(1, 2, 60) * rng.lognormal(0, 0.05, 60)
    reference = mood * rng.lognormal(0, 0.02, 60)
    same = speed_ratio(reference, mood, percentile=50, seed=1)
    slow = speed_ratio(reference, mood * 1.3, percentile=50, seed=1)

    assert same.bounds(0.01)[0] < 1 < same.bounds(0.01)[1]
    assert slow.p_above(1.1) < 0.01


def test_times_without_a_spread_or_a_pair_are_defined():
    """None, one, and times that are not times."""
    none = speed_ratio(np.empty(0), np.empty(0), percentile=50, seed=1)
    one = speed_ratio(np.ones(1), np.ones(1), percentile=50, seed=1)
    odd = speed_ratio(np.array([1, 0, np.nan]), np.ones(3), percentile=50, seed=1)

    assert math.isnan(none.value)
    assert one.bounds(0.05) == (0.0, math.inf)
    assert one.p_above(0.5) == 1.0
    assert odd.pairs == 1
