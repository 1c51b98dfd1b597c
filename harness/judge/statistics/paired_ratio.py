"""Did a pooled relative L2 rise between two runs over the same cases?"""

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
class Rise:
    """Drift now minus drift before, with its resampled studentized distribution."""

    now: float
    before: float
    #: Standard error of the rise; 0 when no case moved or all moved alike.
    error: float
    draws: FloatArray
    clusters: int

    @property
    def value(self) -> float:
        """Now minus before; positive is worse."""
        if self.now == self.before:
            return 0.0
        return self.now - self.before

    def bounds(self, level: float) -> tuple[float, float]:
        """Lower and upper bound, each wrong with chance `level`.

        One cluster gives the interval without ends unless nothing moved.
        """
        if self.value == 0 and self.error == 0:
            return 0.0, 0.0
        if not math.isfinite(self.value):
            return self.value, self.value
        if self.clusters < 2:
            return -math.inf, math.inf
        freedom = self.clusters - 1
        if self.error == 0:
            return self.value, self.value
        down = tail_value(self.draws, level, freedom) * self.error
        up = tail_value(-self.draws[::-1], level, freedom) * self.error
        return self.value - max(down, 0.0), self.value + max(up, 0.0)

    def p_above(self, limit: float) -> float:
        """P-value of "drift rose by at most `limit`"."""
        excess = self.value - limit
        if math.isnan(excess):
            return 0.0
        if excess <= 0 or (self.clusters < 2 and math.isfinite(excess)):
            return 1.0
        if self.error == 0 or not math.isfinite(excess):
            return 0.0
        return tail_chance(self.draws, excess / self.error, self.clusters - 1)

    def detectable(self, level: float, power: float) -> float:
        """Smallest rise beyond the limit that is found with chance `power`."""
        from scipy.special import ndtri

        if self.error == 0:
            return math.inf if self.clusters < 2 and self.value else 0.0
        reach = max(tail_value(self.draws, level, self.clusters - 1), 0.0)
        return (reach + float(ndtri(power))) * self.error


@remembered
def resampled_rise(
    now: FloatArray,
    before: FloatArray,
    reference: FloatArray,
    *,
    seed: int,
    clusters: Sequence[str] | None = None,
) -> Rise:
    """Resample the rise of sqrt(sum error / sum reference), pairs kept together.

    Args:
        now: float64, squared error a case, today.
        before: float64, the same cases in the baseline.
        reference: float64, squared norm of each case's reference.
        seed: of the resampling.
        clusters: cluster of each case; None: every case its own.
    """
    a, b, r = (by_cluster(x, clusters) for x in (now, before, reference))
    count, none = len(a), np.empty(0)
    base = float(r.sum())
    with np.errstate(invalid="ignore", divide="ignore"):
        today, then = _drift(a.sum(), base), _drift(b.sum(), base)
    plain = Rise(now=today, before=then, error=0.0, draws=none, clusters=count)
    finite = math.isfinite(today) and math.isfinite(then)
    if count < 2 or not finite or np.array_equal(a, b):
        return plain
    error = float(_error((a, b, r), np.ones(count), (today, then)))
    if error <= 1e-12 * max(today, then):
        return plain
    weights = resamples(count, seed)
    bases = weights @ r
    weights, bases = weights[bases > 0], bases[bases > 0]
    todays, thens = np.sqrt((weights @ a) / bases), np.sqrt((weights @ b) / bases)
    errors = _error((a, b, r), weights, (todays, thens))
    shift = (todays - thens) - (today - then)
    tiny = 1e-12 * max(today, then)
    with np.errstate(divide="ignore", invalid="ignore"):
        t = np.where(errors > tiny, shift / errors, np.sign(shift) * np.inf)
    t = np.sort(np.where(np.abs(shift) <= tiny, 0.0, t))
    return Rise(now=today, before=then, error=error, draws=t, clusters=count)


def _drift(total: float, base: float) -> float:
    if base == 0:
        return 0.0 if total == 0 else math.inf
    return math.sqrt(total / base)


def _error(sums: tuple[FloatArray, ...], weights: Any, drifts: tuple[Any, Any]) -> Any:
    """Linearized standard error of sqrt(A/R) - sqrt(B/R), of each row of weights."""
    (a, b, r), (now, before) = sums, drifts
    count = len(a)
    base = weights @ r
    now, before = np.asarray(now)[..., None], np.asarray(before)[..., None]
    safe_now = np.where(now > 0, now, np.inf)
    safe_before = np.where(before > 0, before, np.inf)
    influence = (a - now**2 * r) / (2 * safe_now) - (b - before**2 * r) / (
        2 * safe_before
    )
    influence = influence / np.asarray(base)[..., None]
    return np.sqrt((weights * influence**2).sum(axis=-1) * count / (count - 1))
