"""An operator as a backend ran it, with a mistake that the test writes itself."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from harness.diagnose import Call, Observation
from harness.models.types import Operator
from harness.schemes.apply import quantize_activation, quantize_weight
from harness.schemes.catalogue import SCHEMES

ROWS, OUT, LENGTH = 24, 48, 96


def make_operator(seed=0):
    """(48, 96) with rows and columns of different sizes."""
    rng = np.random.default_rng(seed)
    weight = rng.standard_normal((OUT, LENGTH)) * np.exp(rng.normal(0, 0.5, (OUT, 1)))
    weight *= np.exp(rng.normal(0, 0.4, (1, LENGTH)))
    bias = rng.standard_normal(OUT)
    return Operator(
        name="fc",
        kind="linear",
        weight=weight.astype(np.float32),
        bias=bias.astype(np.float32),
    )


def make_seen(scheme="mxfp8", *, weight=None, entry=None, output=None, calls=3):
    """What a backend showed that is right but for the changes given.

    Args:
        scheme: a shipped scheme's name.
        weight: Quantized weight -> the float32 weight that is used instead.
        entry: Quantized input -> the float32 input that is used instead.
        output: right output, number of the call -> what is given instead.
        calls: how many, each (2, 24, 96).
    """
    operator = make_operator()
    found = dataclasses.replace(SCHEMES[scheme], calibration={"fc": 6.0})
    stored = quantize_weight(operator, found)
    used = stored.dequantize() if weight is None else weight(stored)
    rng = np.random.default_rng(3)
    seen = []
    for index in range(calls):
        x = rng.standard_normal((2, ROWS, LENGTH)).astype(np.float32)
        x *= np.exp(rng.normal(0, 0.5, (2, ROWS, 1))).astype(np.float32)
        decoded = x
        if found.activations is not None:
            quantized = quantize_activation(operator, x, found)
            decoded = quantized.dequantize() if entry is None else entry(quantized)
        # float32 arithmetic, as a backend does it.
        y = decoded @ np.asarray(used, np.float32).T + operator.bias
        if output is not None:
            y = output(y, index)
        seen.append(Call(x, y.astype(np.float32), index))
    return Observation(operator, found, tuple(seen))


@pytest.fixture
def make():
    """The makers by name."""
    return {"operator": make_operator, "seen": make_seen}
