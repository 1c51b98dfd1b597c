"""Draws of devices: how many, and what the judge reads of them."""

from __future__ import annotations

import dataclasses
import math
from types import SimpleNamespace

import numpy as np
import pytest

from harness.backends.protocol import Arithmetic
from harness.execution.device import (
    FIRST,
    LEVEL,
    MOST,
    WITHIN,
    device_of,
    observe,
)
from harness.execution.jobs import Draw, DrawsJob, DrawsRun, SuiteRef, TargetRun
from harness.judge.statistics.draws import interval
from harness.schemes.catalogue import SCHEMES
from tests.execution.test_assemble import CASES, REFERENCE, context

AGES = (0.0, 10.0, 1000.0)


def draw(seed, age, spread=0.1, **changes):
    """A device whose drift is about 1% and grows with time."""
    noise = np.random.default_rng([seed, 1]).standard_normal()
    error = 0.01 * (1 + age) ** 0.1 * math.exp(spread * noise)
    plain = Draw(
        seed=seed,
        age=age,
        outputs={c: {"y": REFERENCE[c]["y"] * (1 + error)} for c in CASES},
        residual={"fc": np.array([1.0, 2.0, 3.0])},
        declared={"fc": np.array([1.0, 1.0, 4.0])},
        gain={"fc": 0.01},
        offset={"fc": -0.02},
    )
    return dataclasses.replace(plain, **changes)


class Lab:
    """Gives draws, and remembers which seeds were asked for."""

    def __init__(self, **options):
        self.options = options
        self.asked = []

    def __call__(self, seeds):
        self.asked.append(seeds)
        draws = [draw(s, age, **self.options) for s in seeds for age in AGES]
        return DrawsRun(draws=tuple(draws), declares=True)


def series(found, kind):
    return [entry for entry in found.series if entry.kind == kind]


def test_a_narrow_spread_needs_no_more_draws():
    """The first stage is enough, and its seeds follow the suite's."""
    lab = Lab(spread=0.05)
    found = observe(context({}), lab, determinism="drifts")

    assert lab.asked == [tuple(range(1, FIRST + 1))]
    assert found.seeds == lab.asked[0]
    assert found.wanted == found.first == FIRST


def test_a_wide_spread_is_drawn_until_the_interval_is_tight():
    """As many as the first stage's spread asks for: then it is as tight as promised."""
    lab = Lab(spread=0.4)
    found = observe(context({}), lab, determinism="drifts")

    assert FIRST < found.wanted <= MOST
    assert len(found.seeds) == found.wanted
    assert len(set(found.seeds)) == found.wanted
    low, high = interval(np.log(series(found, "drift")[0].values), LEVEL)
    # Stein's promise is of the first stage's degrees of freedom.
    assert (high - low) / 2 < 1.2 * math.log(WITHIN)


def test_what_would_be_wanted_is_kept_where_it_is_too_many():
    """The judge can then say what would do."""
    found = observe(context({}), Lab(spread=2.0), determinism="drifts")

    assert len(found.seeds) == MOST
    assert found.wanted > MOST


def test_drift_is_tracked_over_ages():
    """A series an age, and of each device the slope over those after the first."""
    found = observe(context({}), Lab(), determinism="drifts")

    drifts = series(found, "drift")
    assert [entry.age for entry in drifts] == list(AGES)
    assert drifts[0].values.mean() < drifts[1].values.mean() < drifts[2].values.mean()
    (slope,) = series(found, "slope")
    # log10(1001/11)/2 decades x 0.1
    assert pytest.approx(0.1 * math.log10(1001 / 11) / 2) == slope.values.mean()


def test_operators_are_held_against_what_is_declared():
    """Squared error over the declared, gain and offset, one number a device."""
    found = observe(context({}), Lab(), determinism="drifts")

    assert {entry.of for entry in series(found, "error")} == {"fc"}
    assert (series(found, "error")[0].values == 1.0).all()
    assert (series(found, "gain")[0].values == 0.01).all()
    assert (series(found, "offset")[0].values == -0.02).all()
    assert (series(found, "channel")[0].values == 2.0).all()
    tail = found.tails[0]
    assert (tail.channel, tail.ratio, tail.among) == (1, 2.0, 3)
    assert tail.draws == len(found.seeds)


def test_an_error_where_none_is_declared_is_endless():
    """Rounding of float32 is not; NaN is."""

    def tails(residual, declared):
        lab = Lab(residual={"fc": residual}, declared={"fc": declared})
        return observe(context({}), lab, determinism="drifts").tails

    dead = np.array([1.0, 0.0])
    assert tails(np.array([1.0, 1e-20]), dead)[0].ratio == 1.0
    assert tails(np.array([1.0, 0.1]), dead)[0].ratio > 1e10
    assert tails(np.array([1.0, math.nan]), dead)[0].ratio == math.inf
    nothing = Lab(residual={"fc": dead}, declared={"fc": np.zeros(2)})
    found = observe(context({}), nothing, determinism="drifts")
    assert np.isnan(series(found, "error")[0].values).all()


def test_answers_are_counted_beside_the_references():
    """A share a device, and the reference's on the same cases."""
    found = observe(context({}), Lab(), determinism="drifts")

    assert (series(found, "wrong")[0].values == 0).all()
    assert found.reference_wrong == {"fine": 0.0}
    assert found.cases == 3


def test_an_exact_target_is_not_drawn():
    """Nor one that gave nothing."""
    job = SimpleNamespace(
        suite=SuiteRef(name="s", folder=".", model="m", cases="c", batch=1, seed=1),
        backend="analog",
        scheme=SCHEMES["int8"],
    )
    asked = []

    def ask(given):
        asked.append(given)
        return Lab()(given.seeds)

    noisy = Arithmetic(determinism="drifts", ages=AGES)
    run = TargetRun(availability=None, arithmetic=noisy, outputs=REFERENCE)
    assert device_of(context({}), job, run, ask) is None
    run.drawable, run.outputs = True, {}
    assert device_of(context({}), job, run, ask) is None
    assert not asked
    run.outputs = REFERENCE
    found = device_of(context({}), job, run, ask)
    assert found is not None
    assert found.determinism == "drifts"
    assert isinstance(asked[0], DrawsJob)
    assert asked[0].ages == AGES
