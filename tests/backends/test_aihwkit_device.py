"""What is expected of IBM's crossbars, against devices that are drawn one by one."""

from __future__ import annotations

import numpy as np
import pytest

from harness.backends import analog_device
from harness.backends.aihwkit_device import (
    Converter,
    compensation,
    drifted,
    moments,
    programmed,
)
from harness.backends.analog_device import Cells

HOUR, DAY = 3600.0, 86400.0


def cells(count, seed=0):
    """Relative weights as a layer has them, the largest 1."""
    weight = np.random.default_rng(seed).standard_normal(count)
    return weight / np.abs(weight).max()


@pytest.mark.parametrize("age", [0.0, 25.0, HOUR, DAY])
@pytest.mark.parametrize("target", [-1.0, -0.2, 0.0, 0.02, 0.4])
def test_moments_are_those_of_many_weights(age, target):
    """A million drawn weights, within five standard errors and the table's own."""
    rng = np.random.default_rng(1)
    many = np.full(10**6, target)
    many[0] = 1.0  # somebody is the largest
    weight, exponent = programmed(many, rng)
    top = float(np.abs(weight).max())
    found = drifted(weight, exponent, age, rng)[1:]

    mean, variance = moments(np.array([target]), age, top)

    error = found.std() / np.sqrt(found.size)
    assert abs(found.mean() - mean[0]) < 5 * error + 2e-4
    assert found.var() == pytest.approx(variance[0], rel=0.02)


def test_reading_is_noisier_where_the_largest_weight_is_larger():
    """Conductances are scaled to it before they are read."""
    target = np.array([0.5])
    assert moments(target, DAY, 1.2)[1] > moments(target, DAY, 1.0)[1]


def test_compensation_undoes_the_mean_of_the_drift():
    """1 before any drift; then what it takes to have the mean absolute weight back."""
    target = cells(200_000)
    silent = Converter(bits=16, bound=1.5, noise=0.0)
    fresh, aged = (compensation(target, age, silent) for age in (0.0, DAY))

    assert fresh.mean == pytest.approx(1.0, abs=0.01)
    assert 1.4 < aged.mean < 1.9
    mean, _ = moments(target, DAY, aged.top)
    gain = (aged.mean * mean * target).sum() / (target * target).sum()
    assert gain == pytest.approx(1.0, abs=0.02)


def test_compensation_looks_through_the_converter():
    """Noise adds to every absolute output, more so to the small ones of an old device.

    So an old device is taken for less drifted than it is.
    """
    target = cells(200_000)
    exact = compensation(target, DAY, Converter(bits=16, bound=1.5, noise=0.0))
    noisy = compensation(target, DAY, Converter(bits=16, bound=1.5, noise=0.3))
    assert noisy.mean < 0.9 * exact.mean


def test_few_weights_have_factors_that_differ():
    """And the same numbers each time: devices of a fixed seed are drawn."""
    few, many = (compensation(cells(n), DAY, Converter()) for n in (64, 100_000))
    spread = [entry.square / entry.mean**2 - 1 for entry in (few, many)]
    assert spread[0] > 10 * abs(spread[1])
    assert few == compensation(cells(64), DAY, Converter())


def test_converter_has_the_steps_and_bounds_of_aihwkits():
    """A resolution of 1/(2^9 - 2) of the range from -12 to 12."""
    converter = Converter(noise=0.0)
    assert converter.step == pytest.approx(24 / 510)
    rng = np.random.default_rng(0)
    found = converter(np.array([0.02, 0.03, 13.0, -13.0]), rng)
    assert np.allclose(found, [0.0, 24 / 510, 12.0, -12.0])


@pytest.mark.parametrize("age", [25.0, HOUR, DAY])
def test_both_simulations_agree_where_they_should(age):
    """One cell of a pair is at 0 in both: means and spreads are near each other.

    Not equal: here the pair becomes one weight and the largest is scaled to the
    largest conductance.
    """
    target = np.array([0.1, 0.3, 0.6, 1.0])
    mean, variance = moments(target, age, 1.0)
    first, second = analog_device.expected(target, age, Cells())
    zero, zero_variance = analog_device.expected(np.zeros(1), age, Cells())
    assert np.allclose(mean, first - zero, atol=2e-3)
    assert np.allclose(variance, second + zero_variance, rtol=0.05)
