"""The compiled exponential and logarithm keep the bounds they state."""

import numpy as np
import pytest

pytest.importorskip("numba", reason="needs the extra 'fast'")

from harness.compare.kernel_logits import exp, log

_RNG = np.random.default_rng(0)


def test_exponentials_are_within_the_stated_bound():
    """2**-52 relative, over the whole range, around multiples of ln 2 / 2."""
    edges = -np.log(2) * (np.arange(0, 1010) / 2)
    x = np.concatenate(
        [-700 * _RNG.random(20_000), -_RNG.random(20_000), edges[edges >= -700], [-700]]
    )
    true = np.exp(x.astype(np.longdouble))
    found = np.array([exp(float(value)) for value in x])

    assert exp(0.0) == 1
    assert np.abs(found / true - 1).max() <= 2.0**-52


def test_logarithms_are_within_the_stated_bound():
    """2**-50 of the larger of 1 and the logarithm, from 1e-300 to 1 and beyond."""
    near = 1 + _RNG.normal(size=20_000) * 1e-3
    x = np.concatenate([np.exp(-690 * _RNG.random(20_000)), near, 2.0 ** np.arange(9)])
    true = np.log(x.astype(np.longdouble))
    found = np.array([log(float(value)) for value in x])

    assert log(1.0) == 0
    assert (np.abs(found - true) <= 2.0**-50 * np.maximum(1, np.abs(true))).all()
