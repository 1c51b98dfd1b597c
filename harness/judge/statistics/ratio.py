"""Intervals and tests of a pooled ratio over cases, by clustered resampling.

The ratio is `(sum error / sum reference) ** exponent`, e.g. the pooled relative L2
with exponent 1/2. Whole clusters are drawn again (cases of one document or prompt
are not independent), and the log ratio is studentized by its linearized standard
error in every draw, which corrects for the skewness that plain percentile intervals
ignore (Davison and Hinkley, "Bootstrap Methods and their Application", 1997, 5.2).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from harness.judge.statistics.memory import remembered

FloatArray = np.ndarray[Any, np.dtype[np.float64]]

#: Resamples; tails beyond `_RESOLVED` of them are extrapolated.
DRAWS: Final = 1999
_RESOLVED: Final = 20 / (DRAWS + 1)


@dataclass(frozen=True, kw_only=True)
class Ratio:
    """A pooled ratio with the resampled distribution of its studentized log."""

    #: The ratio itself; Inf when the reference is zero and the error is not.
    value: float
    #: Standard error of log(value); 0 when the clusters do not differ at all.
    log_error: float
    #: Sorted studentized resamples; empty when there is nothing to resample.
    draws: FloatArray
    clusters: int

    @property
    def known(self) -> bool:
        """Whether an interval exists: at least two clusters, or a certain value."""
        return self.clusters > 1 or self.value in (0.0, math.inf)

    @property
    def standard_error(self) -> float:
        """Of the ratio itself, to first order."""
        return self.value * self.log_error if self.log_error else 0.0

    def quantile(self, level: float) -> float:
        """Studentized value that is exceeded with chance `level`."""
        return tail_value(self.draws, level, self.clusters - 1)

    def bounds(self, level: float) -> tuple[float, float]:
        """Lower and upper bound, each wrong with chance `level`.

        One cluster gives (0, Inf): nothing is known of the others. Identical
        clusters give the value itself.
        """
        if not self.known:
            return 0.0, math.inf
        if self.value in (0.0, math.inf) or self.log_error == 0:
            return self.value, self.value
        low = -self.quantile(level) * self.log_error
        high = tail_value(-self.draws[::-1], level, self.clusters - 1) * self.log_error
        return self.value * _exp(min(low, 0.0)), self.value * _exp(max(high, 0.0))

    def p_above(self, limit: float) -> float:
        """P-value of "the ratio is at most `limit`", small when it is beyond."""
        if not self.known or self.value <= limit:
            return 1.0
        if limit <= 0 or self.value == math.inf or self.log_error == 0:
            return 0.0
        t = math.log(self.value / limit) / self.log_error
        return tail_chance(self.draws, t, self.clusters - 1)

    def detectable(self, limit: float, level: float, power: float) -> float:
        """Smallest excess over `limit` that is found with chance `power`."""
        from scipy.special import ndtri

        if not self.known:
            return math.inf
        if self.log_error == 0 or self.value in (0.0, math.inf):
            return 0.0
        reach = (max(self.quantile(level), 0.0) + float(ndtri(power))) * self.log_error
        return limit * (_exp(reach) - 1)


@remembered
def pooled(
    error: FloatArray,
    reference: FloatArray,
    *,
    seed: int,
    exponent: float = 0.5,
    clusters: Sequence[str] | None = None,
) -> Ratio:
    """Resample the pooled ratio of two non-negative sums.

    Args:
        error: float64, one value a case, >= 0; Inf makes the ratio Inf.
        reference: float64, one value a case, >= 0.
        seed: of the resampling.
        exponent: 1/2 turns sums of squares into a relative L2.
        clusters: cluster of each case; None: every case its own.
    """
    e, r = by_cluster(error, clusters), by_cluster(reference, clusters)
    count = len(e)
    none = np.empty(0)
    total, base = float(e.sum()), float(r.sum())
    if total == 0 or count == 0:
        return Ratio(value=0.0, log_error=0.0, draws=none, clusters=count)
    if base == 0 or not math.isfinite(total):
        return Ratio(value=math.inf, log_error=0.0, draws=none, clusters=count)
    value = (total / base) ** exponent
    if count < 2:
        return Ratio(value=value, log_error=0.0, draws=none, clusters=count)
    log_error = float(_log_error(e / total - r / base, 1.0, exponent))
    # Identical clusters differ by rounding only, which is not a spread.
    if log_error < 1e-12:
        return Ratio(value=value, log_error=0.0, draws=none, clusters=count)
    weights = resamples(count, seed)
    draws = _studentized(e / total, r / base, weights, exponent)
    return Ratio(value=value, log_error=log_error, draws=draws, clusters=count)


def resamples(count: int, seed: int) -> FloatArray:
    """How often each of `count` clusters is drawn, (DRAWS, count) float64."""
    drawn = np.random.default_rng(seed).integers(0, count, (DRAWS, count))
    drawn += count * np.arange(DRAWS)[:, None]
    counts = np.bincount(drawn.ravel(), minlength=DRAWS * count)
    return counts.reshape(DRAWS, count).astype(np.float64)


def by_cluster(values: FloatArray, clusters: Sequence[str] | None) -> FloatArray:
    """Sums by cluster, in order of first appearance."""
    values = np.asarray(values, dtype=np.float64)
    if clusters is None:
        return values
    index: dict[str, int] = {}
    codes = np.array([index.setdefault(name, len(index)) for name in clusters], int)
    sums = np.zeros(len(index))
    np.add.at(sums, codes, values)
    return sums


def _log_error(influence: FloatArray, weights: Any, exponent: float) -> Any:
    count = influence.shape[-1]
    spread = (weights * influence**2).sum(axis=-1)
    return exponent * np.sqrt(spread * count / (count - 1))


def _studentized(
    e: FloatArray, r: FloatArray, weights: Any, exponent: float
) -> FloatArray:
    """Sorted (log ratio* - log ratio) / error*; sums of `e` and `r` are 1."""
    errors, references = weights @ e, weights @ r
    usable = (errors > 0) & (references > 0)
    weights, errors, references = weights[usable], errors[usable], references[usable]
    shift = exponent * np.log(errors / references)
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        influence = e / errors[:, None] - r / references[:, None]
        spread = _log_error(influence, weights, exponent)
        t = np.where(spread > 1e-12, shift / spread, np.sign(shift) * np.inf)
    t = np.where(np.abs(shift) <= 1e-12, 0.0, t)
    return np.sort(t)


def _exp(power: float) -> float:
    return math.exp(power) if power < 700 else math.inf


def tail_value(draws: FloatArray, level: float, freedom: int) -> float:
    """Value of the sorted draws that is exceeded with chance `level`."""
    from scipy.special import stdtrit

    finite = draws[np.isfinite(draws)]
    if len(finite) < 0.9 * DRAWS:
        # Sparse errors: too many resamples hold none at all.
        return float(stdtrit(freedom, 1 - level))
    resolved = max(level, _RESOLVED)
    value = float(np.quantile(finite, 1 - resolved))
    if level >= _RESOLVED:
        return value
    return _stretch(value, freedom) * float(-stdtrit(freedom, level))


def tail_chance(draws: FloatArray, t: float, freedom: int) -> float:
    """Chance that a draw exceeds `t`."""
    from scipy.special import stdtr

    finite = draws[np.isfinite(draws)]
    if len(finite) < 0.9 * DRAWS:
        return float(stdtr(freedom, -t))
    edge = float(np.quantile(finite, 1 - _RESOLVED))
    if t <= edge:
        above = len(finite) - int(np.searchsorted(finite, t, side="left"))
        return (above + 1) / (len(finite) + 1)
    return float(stdtr(freedom, -t / _stretch(edge, freedom)))


def _stretch(edge: float, freedom: int) -> float:
    """How much wider than Student's t the resolved tail is; never less than 1."""
    from scipy.special import stdtrit

    return max(1.0, edge / float(-stdtrit(freedom, _RESOLVED)))
