"""What repetition measures of an operator counts as noise that explains it."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest

from harness.backends.protocol import Outputs
from harness.compare.operator_evidence import OperatorEvidence
from harness.execution.operator_noise import with_measured_noise
from harness.judge.checks.explained import expected_energy
from harness.models.types import Case

MODEL = SimpleNamespace(step_inputs=(), state={}, batch_axes={})
CASES = [Case(id="a", inputs={"x": np.ones((1, 1000), np.float32)})]


class Jittering:
    """Two operators; the first jitters, so the second has another input each time."""

    def __init__(self, noise):
        self.noise = noise
        self.rng = np.random.default_rng(6)

    def run(self, inputs, *, capture=()):
        """Captured operators `one` and `two`."""
        x = inputs["x"].astype(np.float64)
        one = x + self.noise * self.rng.standard_normal(x.shape)
        arrays = {"y": one, "one": one, "one/input": x, "two": one, "two/input": one}
        return Outputs(
            {n: a for n, a in arrays.items() if n.partition("/")[0] in {*capture, "y"}}
        )


def measured(noise):
    """Operator -> its evidence with the noise."""
    entries = [
        OperatorEvidence(
            operator=name,
            residual_sq=1.0,
            quantization_sq=1.0,
            signal_sq=1.0,
            explained_sq=1e-9,
            elements=500,
        )
        for name in ("one", "two")
    ]
    found = with_measured_noise(entries, Jittering(noise), MODEL, CASES, batch=4)
    return {entry.operator: entry for entry in found}


def test_the_operators_own_noise_is_measured():
    """Two draws differ by twice the variance, for each of 500 elements."""
    found = measured(0.01)

    assert pytest.approx(2 * 0.01**2 * 500, rel=0.15) == found["one"].measured_sq
    assert expected_energy(found["one"]) == found["one"].measured_sq


def test_another_input_is_no_noise_of_the_operator():
    """What came from before it is not its own."""
    assert 0 == measured(0.01)["two"].measured_sq


def test_an_exact_operator_has_none():
    """Theory alone explains it."""
    found = measured(0.0)["one"]
    assert (0.0, 1e-9) == (found.measured_sq, expected_energy(found))
