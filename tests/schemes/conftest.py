"""Operators and inputs that the tests of schemes share."""

from __future__ import annotations

import numpy as np
import pytest

from harness.models.types import Operator


@pytest.fixture
def rng() -> np.random.Generator:
    """Numbers that are the same in every run."""
    return np.random.default_rng(20)


@pytest.fixture
def linear(rng: np.random.Generator) -> Operator:
    """A linear layer whose reduction of 70 fills no block format's last block."""
    return Operator(
        name="fc",
        kind="linear",
        weight=rng.standard_normal((24, 70)).astype(np.float32),
        bias=rng.standard_normal(24).astype(np.float32),
    )


@pytest.fixture
def conv(rng: np.random.Generator) -> Operator:
    """A convolution with two groups, a stride, padding and dilation."""
    return Operator(
        name="conv",
        kind="conv",
        weight=rng.standard_normal((6, 20, 3, 2)).astype(np.float32),
        bias=rng.standard_normal(6).astype(np.float32),
        stride=(2, 1),
        padding=((1, 1), (2, 2)),
        dilation=(1, 2),
        groups=2,
    )
