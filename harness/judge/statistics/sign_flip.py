"""Paired permutation of signs: are differences above zero by more than chance?"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Final

import numpy as np

from harness.judge.statistics.ratio import by_cluster

FloatArray = np.ndarray[Any, np.dtype[np.float64]]

#: Up to this many differences all sign patterns are enumerated.
_EXACT: Final = 16
_DRAWS: Final = 9999


def sign_flip_p_value(
    differences: FloatArray,
    *,
    seed: int,
    clusters: Sequence[str] | None = None,
) -> float:
    """P-value of "differences are as often above zero as below", one-sided above.

    Exact for up to 16 non-zero (clusters of) differences; beyond that, random signs,
    and where none of them reaches the observed sum, Hoeffding's bound (1963), which
    holds for every number of differences. Nothing but zeros gives 1, an infinite
    difference 0.

    Args:
        differences: float64, one a case.
        seed: of the random signs.
        clusters: cluster of each case, flipped together; None: every case its own.
    """
    sums = by_cluster(differences, clusters)
    sums = sums[sums != 0]
    if not len(sums):
        return 1.0
    observed = float(sums.sum())
    if not math.isfinite(observed):
        return 0.0 if observed > 0 else 1.0
    threshold = observed - 1e-12 * float(np.abs(sums).sum())
    if len(sums) <= _EXACT:
        return float((_all_sums(np.abs(sums)) >= threshold).mean())
    energy = float(np.square(sums).sum())
    bound = math.exp(-(observed**2) / (2 * energy)) if observed > 0 else 1.0
    if bound < 1 / (_DRAWS + 1):
        return bound
    signs = np.random.default_rng(seed).integers(0, 2, (_DRAWS, len(sums)))
    reached = int((((2 * signs - 1) @ np.abs(sums)) >= threshold).sum())
    return (reached + 1) / (_DRAWS + 1)


def _all_sums(sizes: FloatArray) -> FloatArray:
    """The sum under every pattern of signs."""
    sums = np.zeros(1)
    for size in sizes:
        sums = np.concatenate([sums - size, sums + size])
    return sums
