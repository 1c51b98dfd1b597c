"""What `llama-perplexity --kl-divergence` prints, from two of its base files.

Its own definitions, so that its numbers can be checked and continued: the base's codes
are taken as probabilities although they do not sum to one, tokens more than 16 nats
down are left out of the divergence, and percentiles are linear between order
statistics. `harness.compare.logits` measures the same without these habits.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from harness.errors import UsageError
from harness.golden.interchange.llama_cpp import KlBase

Array = np.ndarray[Any, np.dtype[Any]]

#: Log-probability below which llama.cpp leaves a token of the base out.
_LEAST: Final = -16.0
#: The shares that it prints, of KL and of the change of probability.
KL_SHARES: Final = (0.999, 0.99, 0.95, 0.9, 0.1, 0.05, 0.01, 0.001)
DELTA_P_SHARES: Final = (*KL_SHARES[:4], 0.75, 0.25, *KL_SHARES[4:])


@dataclass(frozen=True, kw_only=True)
class KlStatistics:
    """The numbers that it prints; divergences in nats, probabilities as shares."""

    #: Of the candidate, and of the base by its codes.
    perplexity: float
    base_perplexity: float
    #: Of the two negative log-likelihoods, over tokens.
    correlation: float
    log_ratio: float
    ratio: float
    difference: float
    kl: float
    kl_error: float
    kl_max: float
    kl_min: float
    kl_median: float
    #: Share -> KL of the token that stands there.
    kl_percentiles: Mapping[float, float]
    delta_p: float
    delta_p_max: float
    delta_p_min: float
    delta_p_median: float
    delta_p_percentiles: Mapping[float, float]
    delta_p_rms: float
    same_top: float
    tokens: int


def kl_statistics(base: KlBase, candidate: KlBase) -> KlStatistics:
    """The statistics of a candidate against a base, chunk by chunk.

    Args:
        base: recorded with the reference's model.
        candidate: recorded with the quantized model on the same text. Its own codes
            stand for its log-probabilities, which are 16 bits of their range off.

    Raises:
        UsageError: the two have other tokens or another vocabulary.
    """
    if base.vocabulary != candidate.vocabulary or not np.array_equal(
        base.tokens, candidate.tokens
    ):
        raise UsageError(
            f"{candidate.path}: vocabulary {candidate.vocabulary} and "
            f"{candidate.tokens.shape} tokens, but should be those of {base.path}: "
            f"{base.vocabulary}, {base.tokens.shape}, the same ids"
        )
    parts = [_chunk(base, candidate, chunk) for chunk in range(base.chunks)]
    joined = (np.concatenate(part) for part in zip(*parts, strict=True))
    kl, same, log_p, log_q = joined
    nll, nll_base = -log_q.mean(), -log_p.mean()
    delta = np.exp(log_q) - np.exp(log_p)
    return KlStatistics(
        perplexity=math.exp(nll),
        base_perplexity=math.exp(nll_base),
        correlation=float(np.corrcoef(log_p, log_q)[0, 1]),
        log_ratio=float(nll - nll_base),
        ratio=math.exp(nll - nll_base),
        difference=math.exp(nll) - math.exp(nll_base),
        kl=float(kl.mean()),
        kl_error=float(kl.std() / math.sqrt(len(kl) - 1)),
        kl_max=float(kl.max()),
        kl_min=float(kl.min()),
        kl_median=float(np.median(kl)),
        kl_percentiles=_percentiles(kl, KL_SHARES),
        delta_p=float(delta.mean()),
        delta_p_max=float(delta.max()),
        delta_p_min=float(delta.min()),
        delta_p_median=float(np.median(delta)),
        delta_p_percentiles=_percentiles(delta, DELTA_P_SHARES),
        delta_p_rms=float(np.sqrt(np.square(delta).mean())),
        same_top=float(same.mean()),
        tokens=len(kl),
    )


def _chunk(base: KlBase, candidate: KlBase, chunk: int) -> tuple[Array, ...]:
    """KL, whether the top is the same, both log-probabilities of the right token."""
    p, q = (side.log_probabilities(chunk) for side in (base, candidate))
    wide = p.astype(np.float64)
    terms = np.where(p > _LEAST, np.exp(wide) * (wide - q), 0.0)
    rows, right = np.arange(len(p)), base.labels(chunk)
    return (
        terms.sum(axis=1),
        p.argmax(axis=1) == q.argmax(axis=1),
        wide[rows, right],
        q[rows, right].astype(np.float64),
    )


def _percentiles(values: Array, shares: tuple[float, ...]) -> dict[float, float]:
    found = np.quantile(values, shares)
    return {s: float(v) for s, v in zip(shares, found, strict=True)}
