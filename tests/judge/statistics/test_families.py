"""Many tests at once."""

from __future__ import annotations

import math

import numpy as np
import pytest

from harness.judge.levels import ALPHA, run_levels
from harness.judge.statistics.families import benjamini_hochberg, holm


def test_holm_steps_down_and_stops():
    """The textbook example: two of four are rejected."""
    p = {"a": 0.01, "b": 0.04, "c": 0.03, "d": 0.005}
    levels = holm(p, 0.05)

    assert {name for name in p if p[name] <= levels[name]} == {"a", "d"}
    assert levels["d"] == pytest.approx(0.0125)
    assert levels["c"] == levels["b"] == pytest.approx(0.025)


def test_benjamini_hochberg_steps_up():
    """The largest p-value below its line takes all smaller ones with it."""
    p = {"a": 0.01, "b": 0.035, "c": 0.03, "d": 0.9}
    levels = benjamini_hochberg(p, 0.05)

    assert {name for name in p if p[name] <= levels[name]} == {"a", "b", "c"}


@pytest.mark.parametrize("family", [holm, benjamini_hochberg])
def test_nan_is_never_rejected_and_nothing_gives_nothing(family):
    """A test that could not be computed is no alarm and no error."""
    assert family({}, 0.05) == {}
    level = family({"a": math.nan, "b": 0.2}, 0.05)["a"]
    assert 0 < level < 1


def test_holm_keeps_the_family_wise_error():
    """20,000 families of 30 null tests: alarms in at most alpha of them."""
    rng = np.random.default_rng(3)
    smallest = rng.uniform(size=(20_000, 30)).min(axis=1)
    # A family alarms exactly when its smallest p-value passes the first step.
    alarms = (smallest <= holm(dict.fromkeys(range(30), 1.0), 0.05)[0]).mean()

    assert alarms <= 0.05


def test_alpha_is_split_over_checks_not_over_operators():
    """A thousand operators leave one behaviour its whole share of alpha."""
    tests = {f"explained:{i}": 0.5 for i in range(1000)} | {"behaviour:labels": 0.5}
    levels = run_levels([tests])[0]

    assert levels.of("behaviour:labels") == pytest.approx(ALPHA * 4 / 5)
    assert levels.of("explained:1") == pytest.approx(ALPHA / 5 / 1000)


def test_all_targets_of_a_run_are_one_family():
    """The level of a test falls with the number of targets."""
    tests = [{"distance:drift": 0.5}] * 10

    assert run_levels(tests)[3].of("distance:drift") == pytest.approx(ALPHA / 10)
