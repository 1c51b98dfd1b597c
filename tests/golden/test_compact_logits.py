"""Logits in 400 bytes a token: what is kept, and how exact it is."""

from __future__ import annotations

import numpy as np
import pytest

from harness.golden.compact import compact
from harness.golden.compact_logits import (
    DELTA_P_BOUND,
    decode_log,
    encode_log,
    encode_logits,
    log_softmax,
)


def zipf(rows, width, seed=0, noise=1.0):
    """Logits whose probabilities fall off like those of a language model."""
    rng = np.random.default_rng(seed)
    falling = -1.3 * np.log(np.arange(1, width + 1))
    return np.stack(
        [
            rng.permutation(falling) + noise * rng.standard_normal(width)
            for _ in range(rows)
        ]
    ).astype(np.float32)


@pytest.mark.parametrize("width", [2_000, 49_152, 70_000, 151_936])
def test_at_most_400_bytes_a_token(width):
    """Every vocabulary fits, right tokens included."""
    logits = zipf(3, width)
    found = compact(logits, kind="logits", labels=np.array([1, -1, 5]))

    assert found.kind == "logits"
    assert found.nbytes <= 400 * 3
    assert found.project(logits).shape == found.array.shape


def test_small_vocabularies_are_kept_whole():
    """Up to 1,024 classes nothing is left out."""
    assert compact(zipf(2, 1024), kind="logits").kind == "full"


def test_not_finite_is_kept_whole():
    """NaN is not hidden by leaving it out."""
    logits = zipf(2, 2000)
    logits[1, 7] = np.nan
    assert compact(logits, kind="logits").kind == "full"


def test_log_codes():
    """A decoded probability is within the stated bound everywhere."""
    log_p = -np.linspace(0, 40, 200_001)
    found = decode_log(encode_log(log_p))

    assert np.abs(np.exp(found) - np.exp(log_p)).max() <= DELTA_P_BOUND
    inside = log_p > -32
    assert np.abs(found - log_p)[inside].max() <= 5e-4
    assert found[0] == 0.0


def test_most_likely_first():
    """Top tokens come in the order of argmax, the lower first where equal."""
    logits = zipf(8, 3000)
    logits[0, [10, 2000]] = 9.0
    support = compact(logits, kind="logits").support()

    assert support.indices[:, 0].tolist() == logits.argmax(axis=1).tolist()
    assert support.indices[0, :2].tolist() == [10, 2000]
    assert (support.certain >= 8).all()


def test_weights_sum_to_one():
    """What is kept stands for everything."""
    support = compact(zipf(5, 49_152), kind="logits").support()
    np.testing.assert_allclose(support.weight.sum(axis=1), 1.0, atol=1e-12)


@pytest.mark.parametrize("kind", ["peaked", "flat", "two"])
def test_extreme_distributions(kind):
    """One token, all tokens alike, and two alike are kept without a fuss."""
    logits = np.full((2, 5000), -100.0, np.float32)
    if kind == "flat":
        logits[:] = 0
    logits[:, 17] = 0
    if kind == "two":
        logits[:, 40] = 0

    found = compact(logits, kind="logits")
    support = found.support()

    assert support.indices[:, 0].tolist() == [17 if kind != "flat" else 0] * 2
    np.testing.assert_allclose(support.weight.sum(axis=1), 1.0, atol=1e-9)
    assert np.isfinite(found.array).all()


def test_three_byte_tokens():
    """Tokens beyond 65,536 come back."""
    logits = np.zeros((1, 100_000), np.float32)
    logits[0, [99_999, 70_000, 65_536]] = [30, 29, 28]
    support = compact(logits, kind="logits").support()
    assert support.indices[0, :3].tolist() == [99_999, 70_000, 65_536]


def test_sampling_is_repeatable():
    """The same logits give the same bits."""
    logits = zipf(4, 5000)
    first, second = encode_logits(logits)[0], encode_logits(logits)[0]
    for role, array in first.items():
        assert array.tobytes() == second[role].tobytes()


def test_sample_follows_the_probabilities():
    """Over many rows a token of the tail is drawn as often as it should be."""
    rows, width = 3000, 1500
    logits = np.tile(zipf(1, width, seed=3), (rows, 1))
    support = compact(logits, kind="logits").support()
    p = np.exp(log_softmax(logits[:1]))[0]
    estimate = np.zeros(width)
    np.add.at(estimate, support.indices, support.weight)

    estimate /= rows

    # A draw of weight w has variance at most w p; six standard errors.
    error = 6 * np.sqrt(support.weight.max() * p / rows) + 1e-4
    assert (np.abs(estimate - p) < error).all()


def test_same_bits_project_to_the_same():
    """A target equal to the reference is as near as the coding allows."""
    logits = zipf(4, 5000)
    found = compact(logits, kind="logits")
    moved = np.abs(found.project(logits) - found.array)[:, :-1]
    assert moved.max() <= 1e-3
