"""The scalar reference and the vectorised code are the same function."""

from __future__ import annotations

import numerics_oracles as oracles
import numpy as np
import pytest

from harness.numerics import FORMATS, encode
from harness.numerics.reference import encode_scalar
from harness.numerics.rounding import ROUNDINGS

MODES = [mode for mode in ROUNDINGS if mode != "stochastic"]


def values(name):
    """Midpoints, powers of two, random bits: about six hundred numbers."""
    generator = np.random.default_rng(7)
    bits = generator.integers(0, 1 << 32, 200, dtype=np.uint32).view(np.float32)
    middles = oracles.midpoints(name)
    middles = middles[generator.integers(0, middles.size, 200)]
    powers = oracles.powers_of_two()[::3]
    around = generator.standard_normal(100) * min(FORMATS[name].max, 1e38)
    return np.concatenate([bits, middles, powers, around.astype(np.float32)])


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("name", oracles.ELEMENTS)
def test_scalar_and_vector_agree(name, mode, dtype):
    """Each mode, from float32 (the fast path) and float64 (the general one)."""
    x = values(name).astype(dtype)
    fmt = FORMATS[name]

    wanted = [encode_scalar(fmt, v, rounding=mode) for v in x.tolist()]

    assert encode(x, name, rounding=mode).tolist() == wanted


@pytest.mark.parametrize("overflow", ["saturate", "nan", "inf"])
@pytest.mark.parametrize("name", oracles.FLOATS)
def test_scalar_and_vector_agree_on_overflow(name, overflow):
    """Each overflow rule that the format has."""
    fmt = FORMATS[name]
    if fmt.specials == "none" and overflow != "saturate":
        return
    x = values(name)

    wanted = [encode_scalar(fmt, v, overflow=overflow) for v in x.tolist()]

    assert encode(x, name, overflow=overflow).tolist() == wanted


@pytest.mark.parametrize("name", oracles.ELEMENTS)
def test_scalar_and_vector_agree_on_draws(name):
    """Stochastic rounding goes up exactly when the fraction exceeds the draw."""
    x = values(name).astype(np.float64)
    draws = np.random.default_rng(11).random(x.size)
    fmt = FORMATS[name]

    wanted = [
        encode_scalar(fmt, v, rounding="stochastic", draw=d)
        for v, d in zip(x.tolist(), draws.tolist(), strict=True)
    ]

    assert encode(x, name, rounding="stochastic", seed=11).tolist() == wanted


def test_truncation_is_not_rounding():
    """The comparison above can fail: two modes differ on these values."""
    x = values("fp8_e4m3")

    assert not np.array_equal(
        encode(x, "fp8_e4m3"), encode(x, "fp8_e4m3", rounding="toward_zero")
    )
