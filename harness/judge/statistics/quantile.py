"""Intervals and tests of a quantile over rows that come in clusters.

How many rows lie at or below the true quantile is binomial, whatever the distribution:
that gives the bounds of Clopper and Pearson in ranks. Rows of one prompt are not
independent, so their number is divided by the design effect (Kish 1965; of quantiles
Woodruff 1952, doi:10.1080/01621459.1952.10483443): the variance of the share of rows
below the quantile over clusters, relative to that of independent rows. A bound that the
rows cannot give is infinite.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

FloatArray = np.ndarray[Any, np.dtype[np.float64]]


@dataclass(frozen=True, kw_only=True, eq=False)
class Quantile:
    """A quantile of rows, with bounds by rank."""

    #: Wanted share of rows at or below: 0 for the smallest, 1 for the largest.
    share: float
    #: Linear between the order statistics, as `numpy.quantile`.
    value: float
    #: All rows, sorted.
    rows: FloatArray
    #: Independent rows that would tell as much.
    effective: float
    clusters: int
    #: Values below cannot be (0 for distances); None: any value can.
    least: float | None = None

    @property
    def standard_error(self) -> float:
        """0: none is given, a quantile's interval is not symmetric."""
        return 0.0

    def bounds(self, level: float) -> tuple[float, float]:
        """Lower and upper bound, each wrong with chance `level`; maybe infinite."""
        floor = -math.inf if self.least is None else self.least
        if math.isnan(self.value):
            return self.value, self.value
        if self.clusters < 2:
            return floor, math.inf
        ranks = np.arange(len(self.rows))
        low = np.flatnonzero(self._at_most(ranks) <= level)
        high = np.flatnonzero(self._at_least(ranks + 1) <= level)
        first = float(self.rows[low[-1]]) if low.size else floor
        last = float(self.rows[high[0]]) if high.size else math.inf
        return first, last

    def p_above(self, limit: float) -> float:
        """P-value of "the quantile is at most `limit`"."""
        below = int(np.searchsorted(self.rows, limit, side="right"))
        return self._p(self.value > limit, self._at_most(np.array(below)))

    def p_below(self, limit: float) -> float:
        """P-value of "the quantile is at least `limit`"."""
        below = int(np.searchsorted(self.rows, limit, side="left"))
        return self._p(self.value < limit, self._at_least(np.array(below)))

    def _p(self, beyond: bool, chance: Any) -> float:
        if math.isnan(self.value):
            return 0.0
        return float(chance) if beyond and self.clusters > 1 else 1.0

    def _at_most(self, count: Any) -> Any:
        """Chance that no more than `count` rows lie at or below the quantile."""
        from scipy.special import betainc

        found = count * self.effective / len(self.rows)
        rest = np.maximum(self.effective - found, 1e-12)
        chance = betainc(rest, found + 1, 1 - self.share)
        return np.where(count >= len(self.rows), 1.0, chance)

    def _at_least(self, count: Any) -> Any:
        """Chance that `count` rows or more lie at or below the quantile."""
        from scipy.special import betainc

        found = np.maximum(count * self.effective / len(self.rows), 1e-12)
        chance = betainc(found, self.effective - found + 1, self.share)
        return np.where(np.asarray(count) <= 0, 1.0, chance)

    def detectable(self, limit: float, level: float, power: float) -> float:  # noqa: ARG002
        """Smallest excess over any limit that is found with chance `power`."""
        from scipy.special import ndtri

        low, _ = self.bounds(level)
        if not math.isfinite(low):
            return math.inf
        reach = -float(ndtri(level))
        return (self.value - low) * (reach + float(ndtri(power))) / reach


def clustered_quantile(
    rows: Sequence[FloatArray], share: float, *, clusters: Sequence[str] | None = None
) -> Quantile:
    """A quantile over all rows of all cases.

    Args:
        rows: float64 values of each case; NaN anywhere makes the quantile so.
        share: 0 to 1.
        clusters: cluster of each case; None: every case its own.

    Raises:
        ValueError: no rows at all.
    """
    values = np.concatenate([np.zeros(0), *(np.asarray(r, np.float64) for r in rows)])
    if not values.size:
        msg = "a quantile of no rows"
        raise ValueError(msg)
    names = list(range(len(rows))) if clusters is None else list(clusters)
    index: dict[Any, int] = {}
    codes = [index.setdefault(name, len(index)) for name in names]
    owner = np.repeat(codes, [len(r) for r in rows])
    value = math.nan if np.isnan(values).any() else float(np.quantile(values, share))
    return Quantile(
        share=share,
        value=value,
        rows=np.sort(values),
        effective=len(values) / _design_effect(values <= value, owner),
        clusters=len(np.unique(owner)),
        least=0.0 if (values >= 0).all() else None,
    )


def _design_effect(below: Any, owner: Any) -> float:
    """Variance of the share over clusters, relative to independent rows; at least 1."""
    hits, sizes = (np.bincount(owner, weights=w) for w in (below, np.ones(len(owner))))
    hits, sizes = hits[sizes > 0], sizes[sizes > 0]
    total, count = sizes.sum(), len(sizes)
    share = hits.sum() / total
    if count < 2 or not 0 < share < 1:
        return 1.0
    residual = (hits - share * sizes) / total
    variance = float((residual**2).sum()) * count / (count - 1)
    return max(1.0, float(variance * total / (share * (1 - share))))
