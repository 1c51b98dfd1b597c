"""Two runs of a sound backend stay within the limit; a run that is wrong does not."""

from __future__ import annotations

import numpy as np
import pytest

from harness.execution.apart import freedom_of, two_draws
from harness.judge.evidence import Paired

FEW, MANY = 4, 60


def drift(squares):
    """Drift of cases whose reference has energy 1."""
    return Paired(
        cases=tuple(map(str, range(len(squares)))),
        error_sq=np.asarray(squares, float),
        reference_sq=np.ones(len(squares)),
    )


def draws(rng, freedom, spread):
    """Squared drifts of two runs: cases differ by `spread`, draws as chi-squares do."""
    own = np.exp(spread * rng.standard_normal(MANY)) / freedom
    return [own * rng.chisquare(freedom, MANY) for _ in range(2)]


@pytest.mark.parametrize("freedom", [2, 8, 40])
@pytest.mark.parametrize("spread", [0.0, 0.5])
def test_independent_draws_are_within_the_limit(freedom, spread):
    """Of 1,000 pairs none is beyond; sqrt(2) times the drift had failed hundreds."""
    rng = np.random.default_rng(20261124)
    beyond = before = 0
    for _ in range(1000):
        first, second = draws(rng, freedom, spread)
        chosen = rng.permutation(MANY)[:FEW]
        apart = np.sqrt((first[chosen] + second[chosen]).mean())
        smaller = np.sqrt(min(first[chosen].mean(), second[chosen].mean()))
        overall = drift(first)
        beyond += apart > two_draws(smaller, FEW, overall)
        before += apart > np.sqrt(2) * overall.ratio
    assert beyond == 0
    assert before > 100


def test_a_run_that_is_wrong_is_beyond():
    """Four times the drift on the same cases, where cases scatter as logits' do."""
    rng = np.random.default_rng(20261124)
    first, second = draws(rng, 8, 0.3)
    chosen = np.arange(FEW)
    apart = np.sqrt((first[chosen] + 16 * second[chosen]).mean())
    smaller = np.sqrt(first[chosen].mean())
    assert apart > two_draws(smaller, FEW, drift(first))


def test_a_run_that_is_wrong_throughout_excuses_nothing():
    """The smaller drift on the shared cases bounds what a large overall one allows."""
    rng = np.random.default_rng(20261124)
    first, second = draws(rng, 8, 0.3)
    wrong = drift(10_000 * first)
    smaller = float(np.sqrt(second[:FEW].mean()))
    assert two_draws(smaller, FEW, wrong) < wrong.ratio


def test_cases_that_tell_nothing_count_as_one_each():
    """A single case, equal cases, a NaN."""
    for squares in ([1.0], [2.0, 2.0], [1.0, np.nan]):
        assert freedom_of(drift(squares)) == 1.0
    rng = np.random.default_rng(0)
    assert freedom_of(drift(rng.chisquare(8, 10_000))) == pytest.approx(8, rel=0.1)


def test_a_device_known_from_these_cases_alone():
    """Without other cases the smaller drift alone bounds, more loosely for fewer."""
    assert two_draws(0.1, 4, None) > two_draws(0.1, 8, None) > 0.1 * np.sqrt(2)
