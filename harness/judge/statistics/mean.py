"""Intervals and tests of a mean over cases, by clustered resampling."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from harness.judge.statistics.memory import remembered
from harness.judge.statistics.ratio import (
    by_cluster,
    resamples,
    tail_chance,
    tail_value,
)

FloatArray = np.ndarray[Any, np.dtype[np.float64]]


@dataclass(frozen=True, kw_only=True)
class Mean:
    """A mean with the resampled distribution of its studentized value."""

    value: float
    #: Standard error; 0 when the clusters do not differ at all.
    error: float
    #: Sorted studentized resamples; empty when there is nothing to resample.
    draws: FloatArray
    clusters: int
    #: Values outside cannot be (0 for distances); None: any value can.
    least: float | None = None

    @property
    def known(self) -> bool:
        """Whether an interval exists: at least two clusters."""
        return self.clusters > 1

    @property
    def standard_error(self) -> float:
        """Of the mean."""
        return self.error

    def bounds(self, level: float) -> tuple[float, float]:
        """Lower and upper bound, each wrong with chance `level`.

        One cluster gives an interval without ends; an infinite value is certain.
        """
        floor = -math.inf if self.least is None else self.least
        if not math.isfinite(self.value):
            return self.value, self.value
        if not self.known:
            return floor, math.inf
        if self.error == 0:
            return self.value, self.value
        freedom = self.clusters - 1
        down = max(tail_value(self.draws, level, freedom), 0.0) * self.error
        up = max(tail_value(-self.draws[::-1], level, freedom), 0.0) * self.error
        return max(self.value - down, floor), self.value + up

    def p_above(self, limit: float) -> float:
        """P-value of "the mean is at most `limit`"."""
        return self._p(self.value - limit, self.draws)

    def p_below(self, limit: float) -> float:
        """P-value of "the mean is at least `limit`"."""
        return self._p(limit - self.value, -self.draws[::-1])

    def _p(self, excess: float, draws: FloatArray) -> float:
        if math.isnan(excess):
            return 0.0
        if excess <= 0 or (not self.known and math.isfinite(excess)):
            return 1.0
        if self.error == 0 or not math.isfinite(excess):
            return 0.0
        return tail_chance(draws, excess / self.error, self.clusters - 1)

    def detectable(self, limit: float, level: float, power: float) -> float:  # noqa: ARG002
        """Smallest excess over any limit that is found with chance `power`."""
        from scipy.special import ndtri

        if not math.isfinite(self.value):
            return 0.0
        if not self.known:
            return math.inf
        if self.error == 0:
            return 0.0
        reach = max(tail_value(self.draws, level, self.clusters - 1), 0.0)
        return (reach + float(ndtri(power))) * self.error


@remembered
def resampled_mean(
    values: FloatArray,
    *,
    seed: int,
    clusters: Sequence[str] | None = None,
) -> Mean:
    """Resample the mean of one value a case.

    Args:
        values: float64; NaN or Inf in any case makes the mean so, which no limit
            allows.
        seed: of the resampling.
        clusters: cluster of each case; None: every case its own.
    """
    values = np.asarray(values, dtype=np.float64)
    sums = by_cluster(values, clusters)
    sizes = by_cluster(np.ones(len(values)), clusters)
    count, total = len(sums), float(sizes.sum())
    none = np.empty(0)
    least = 0.0 if (values >= 0).all() else None
    with np.errstate(invalid="ignore"):
        value = float(sums.sum() / total)
    if not math.isfinite(value) or count < 2:
        return Mean(value=value, error=0.0, draws=none, clusters=count, least=least)
    centred = (sums - value * sizes) / total
    error = math.sqrt(float((centred**2).sum()) * count / (count - 1))
    if error <= 1e-12 * abs(value):
        return Mean(value=value, error=0.0, draws=none, clusters=count, least=least)
    weights = resamples(count, seed)
    draws = _studentized(sums, sizes, weights, value)
    return Mean(value=value, error=error, draws=draws, clusters=count, least=least)


def _studentized(
    sums: FloatArray, sizes: FloatArray, weights: Any, value: float
) -> FloatArray:
    """Sorted (mean* - mean) / error* of every resample."""
    count = len(sums)
    total = weights @ sizes
    means = (weights @ sums) / total
    residual = (sums - means[:, None] * sizes) / total[:, None]
    spread = np.sqrt((weights * residual**2).sum(axis=1) * count / (count - 1))
    shift = means - value
    tiny = 1e-12 * max(abs(value), float(np.abs(sums).max()))
    with np.errstate(divide="ignore", invalid="ignore"):
        t = np.where(spread > tiny, shift / spread, np.sign(shift) * np.inf)
    return np.sort(np.where(np.abs(shift) <= tiny, 0.0, t))
