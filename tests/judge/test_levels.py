"""What the levels of a run hold, by simulation: the stated error rates."""

from __future__ import annotations

import numpy as np
import pytest

from harness.judge.levels import FALSE_DISCOVERY_RATE, run_levels

CHECKS = {"explained": 40, "distance": 10, "behaviour": 3}


def draw(rng, guilty):
    """P-values of a target; of each check so many are of something real."""
    found = {}
    for check, count in CHECKS.items():
        p = rng.random(count)
        p[: guilty.get(check, 0)] *= 1e-5
        found |= {f"{check}:{i}": float(value) for i, value in enumerate(p)}
    return found


def alarms(mode, guilty, seed, runs=3000):
    """Of every run: alarms that are false, and alarms in all."""
    counts = []
    for run in range(runs):
        tests = [draw(np.random.default_rng([run, t, seed]), guilty) for t in range(2)]
        levels = run_levels(tests, mode=mode, alpha=0.05)
        raised = [
            name
            for named, level in zip(tests, levels, strict=True)
            for name, p in named.items()
            if p <= level.of(name)
        ]
        real = [
            name
            for name in raised
            if int(name.rpartition(":")[2]) < guilty.get(name.partition(":")[0], 0)
        ]
        counts.append((len(raised) - len(real), len(raised)))
    return np.array(counts)


@pytest.mark.parametrize("guilty", [{}, {"explained": 10}, {"distance": 2}])
def test_a_nightly_holds_the_share_of_false_alarms(guilty):
    """Over all checks together, with three standard errors for the simulation."""
    counts = alarms("nightly", guilty, seed=1)
    share = counts[:, 0] / np.maximum(counts[:, 1], 1)

    assert share.mean() <= FALSE_DISCOVERY_RATE + 3 * share.std() / np.sqrt(len(share))
    if guilty:
        assert counts[:, 1].mean() > 0.9 * 2 * sum(guilty.values())


def test_a_gate_holds_the_chance_of_any():
    """Holm within a check, shares of alpha between them."""
    any_false = alarms("gate", {"explained": 10}, seed=2)[:, 0] > 0
    assert any_false.mean() <= 0.05 + 3 * np.sqrt(0.05 * 0.95 / len(any_false))


def test_few_behaviours_keep_their_power_beside_many_operators():
    """A level of its own: not a share of a thousand operators'."""
    tests = {f"explained:{i}": 0.5 for i in range(1000)} | {"behaviour:a": 0.01}
    for mode in ("gate", "nightly"):
        (level,) = run_levels([tests], mode=mode, alpha=0.05)
        assert level.of("behaviour:a") == pytest.approx(0.04)
        assert level.of("explained:3") < 2e-5
