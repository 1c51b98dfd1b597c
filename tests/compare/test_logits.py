"""Divergences of language models: exact on full logits, faithful on compact ones."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy.special import log_softmax, rel_entr, softmax

from harness.compare.logits import compare_logits
from harness.errors import UsageError
from harness.golden.compact import compact


@pytest.fixture
def logits():
    """Zipf-like reference rows and a target with normal noise of 0.2."""
    rng = np.random.default_rng(0)
    falling = -1.3 * np.log(np.arange(1, 8001))
    reference = np.stack([rng.permutation(falling) for _ in range(96)])
    reference = (reference + rng.standard_normal(reference.shape)).astype(np.float32)
    noise = 0.2 * rng.standard_normal(reference.shape)
    return reference, (reference + noise).astype(np.float32)


def scalar(reference, candidate):
    """Mean KL, reverse KL and JS by SciPy."""
    p = softmax(reference.astype(float), axis=1)
    q = softmax(candidate.astype(float), axis=1)
    m = (p + q) / 2
    js = (rel_entr(p, m) + rel_entr(q, m)).sum(axis=1) / 2
    return [v.mean() for v in (rel_entr(p, q).sum(1), rel_entr(q, p).sum(1), js)]


def test_agrees_with_scipy(logits):
    """Full logits: KL, reverse KL and JS are SciPy's."""
    found = compare_logits(*logits)
    assert [found.kl, found.reverse_kl, found.js] == pytest.approx(
        scalar(*logits), rel=1e-10
    )
    assert found.kl_standard_error == 0


@pytest.mark.parametrize("size", [1e-6, 1e-3, 1.0])
def test_small_drift_keeps_its_digits(size):
    """KL of a small drift is its second-order term, not a rounding error."""
    rng = np.random.default_rng(1)
    z = rng.standard_normal((4, 300))
    d = size * rng.standard_normal(z.shape)
    p = softmax(z, axis=1)
    found = compare_logits(z, z + d)
    second = 0.5 * ((p * d * d).sum(1) - (p * d).sum(1) ** 2).mean()
    assert found.kl == pytest.approx(second, rel=2 * size + 1e-6)


def test_identical(logits):
    """The same logits are at no distance."""
    found = compare_logits(logits[0], logits[0])
    assert (found.kl, found.reverse_kl, found.js, found.flips) == (0, 0, 0, 0)
    assert (found.top1_agreement, found.top5_agreement) == (1, 1)
    assert found.first_divergence is None


def test_shift_does_not_matter(logits):
    """Adding a constant to a row changes no probability."""
    found = compare_logits(logits[0].astype(np.float64), logits[0].astype(float) + 3)
    assert found.kl < 1e-12


def test_right_tokens(logits):
    """Change of probability and perplexity ratio are those of the right tokens."""
    reference, candidate = logits
    labels = np.arange(96) % 50
    labels[3] = -1
    p, q = (log_softmax(x.astype(float), axis=1)[np.arange(96), labels] for x in logits)
    there = labels >= 0

    found = compare_logits(reference, candidate, labels=labels)

    assert found.labelled == 95
    assert found.delta_p_rows == pytest.approx((np.exp(q) - np.exp(p))[there])
    assert found.perplexity_ratio == pytest.approx(math.exp((p - q)[there].mean()))


def test_flips_and_first_divergence(logits):
    """A changed argmax is a flip, and the first is where texts part."""
    reference = logits[0]
    candidate = reference.copy()
    candidate[[5, 9], 17] = 50
    found = compare_logits(reference, candidate)
    assert (found.flips, found.first_divergence) == (2, 5)
    assert found.top1_agreement == pytest.approx(1 - 2 / 96)


@pytest.mark.parametrize("noise", [0.003, 0.03, 0.2, 1.0])
def test_compact_is_near_exact(logits, noise):
    """From 400 bytes a token: KL within three standard errors, the rest exact."""
    reference, _ = logits
    rng = np.random.default_rng(2)
    shift = noise * rng.standard_normal(reference.shape)
    candidate = (reference + shift).astype(np.float32)
    labels = np.arange(96)
    golden = compact(reference, kind="logits", labels=labels)

    exact = compare_logits(reference, candidate, labels=labels)
    found = compare_logits(golden, candidate)

    assert abs(found.kl - exact.kl) <= 3 * found.kl_standard_error + 1e-6
    assert 0 < found.kl_standard_error < 0.02 * exact.kl
    assert (found.flips, found.top5_agreement) == (exact.flips, exact.top5_agreement)
    error = np.abs(found.delta_p_rows - exact.delta_p_rows).max()
    assert error <= golden.bound["delta_p"] + 1e-9
    assert found.perplexity_ratio == pytest.approx(exact.perplexity_ratio, rel=1e-4)


def test_compact_is_unbiased():
    """Over many goldens the mean error of KL is within its own standard error."""
    rng = np.random.default_rng(3)
    errors = []
    for seed in range(40):
        rng = np.random.default_rng(seed)
        reference = 2 * rng.standard_normal((8, 2000)).astype(np.float32)
        candidate = reference + 0.3 * rng.standard_normal(reference.shape)
        exact = compare_logits(reference, candidate).kl
        errors.append(
            compare_logits(compact(reference, kind="logits"), candidate).kl / exact - 1
        )
    errors = np.array(errors)
    assert abs(errors.mean()) <= 3 * errors.std() / math.sqrt(40)


def test_not_finite_never_passes(logits):
    """NaN in one row makes everything the worst, from full and compact logits."""
    reference, candidate = logits
    candidate[4, 7999] = np.nan
    for first in (reference, compact(reference, kind="logits")):
        found = compare_logits(first, candidate)
        assert "1 of 96 rows are not finite" in found.problem
        assert (found.kl, found.top1_agreement) == (math.inf, 0.0)


def test_shape_and_empty():
    """Another shape and nothing at all are problems."""
    assert "shape" in compare_logits(np.ones((2, 5)), np.ones((2, 6))).problem
    assert "empty" in compare_logits(np.ones((0, 5)), np.ones((0, 5))).problem


def test_labels_that_were_not_kept(logits):
    """Right tokens cannot be asked of a golden without them."""
    golden = compact(logits[0], kind="logits")
    with pytest.raises(UsageError, match="kept no right tokens"):
        compare_logits(golden, logits[1], labels=np.arange(96))
