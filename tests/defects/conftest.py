"""Two operators under every shipped scheme, small enough to plant everything."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from harness.defects import Site
from harness.models.types import Operator
from harness.schemes.catalogue import SCHEMES


def make_operator(name="fc", out=128, length=128, seed=0, kind="linear"):
    """Weights of different sizes along both axes, so that no two scales are alike."""
    rng = np.random.default_rng(seed)
    shape = (out, length) if kind == "linear" else (out, length, 3)
    weight = rng.standard_normal(shape) * 0.1
    weight *= np.exp(rng.normal(0, 0.6, (out, *(1,) * (len(shape) - 1))))
    weight *= np.exp(rng.normal(0, 0.4, (1, length, *(1,) * (len(shape) - 2))))
    # A block of zeros: what an amax of zero does is a defect of its own.
    weight[3, :32] = 0
    # Half way between two codes of every format with power-of-two scales.
    weight[5, 32:64] = 1.0625
    weight[5, 32] = 4
    # Subnormal numbers, and a block whose scale is one.
    weight[6, 0:4] = 1e-5
    weight[7, 32:64] = 1e-5
    # Negative numbers that are stored as zero.
    weight[6, 4:6] = -1e-7
    weight *= 2.0 ** (seed % 3)
    conv = {"stride": (1,), "dilation": (1,), "padding": ((1, 1),)}
    return Operator(
        name=name,
        kind=kind,
        weight=weight.astype(np.float32),
        bias=rng.standard_normal(out).astype(np.float32),
        **(conv if kind == "conv" else {}),
    )


def make_input(kind="linear", rows=41, length=128, seed=1):
    """(2, rows, length), or (2, length, rows): heavy tails, no two rows alike."""
    rng = np.random.default_rng(seed)
    x = rng.standard_t(4, (2, rows, length)) * np.exp(rng.normal(0, 0.5, (2, rows, 1)))
    x[0, 1, 7] *= 20
    x[1, 2] = 1.0625
    x[1, 2, ::16] = 4
    return np.ascontiguousarray(x if kind == "linear" else np.swapaxes(x, 1, 2)).astype(
        np.float32
    )


def make_site(scheme, kind="linear", **changes):
    """A calibrated site that knows another operator of its shape."""
    operator = make_operator(kind=kind)
    amax = float(np.abs(make_input(kind)).max())
    found = dataclasses.replace(
        SCHEMES[scheme], calibration={"fc": amax, "other": amax}
    )
    other = make_operator("other", seed=5, kind=kind)
    return Site(**{"operator": operator, "scheme": found, "other": other, **changes})


@pytest.fixture
def make():
    """The makers by name."""
    return {"operator": make_operator, "input": make_input, "site": make_site}
