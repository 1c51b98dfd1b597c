"""Right answers lost, paired case by case: an exact test with a margin.

Of n cases, b were right and are now wrong, c the other way round; the loss is
(b - c) / n. The test orders tables by Tango's score statistic for a given margin
(Statistics in Medicine 17, 1998; McNemar's when the margin is 0) and takes the
largest probability over the unknown share of changed answers, within a confidence
set of that share (Suissa and Shuster 1991; Berger and Boos 1994). The p-value is
therefore valid for every n, also tiny ones, unlike the normal approximation, and
sees smaller effects than the test conditional on b + c.
"""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass
from typing import Any, Final

import numpy as np

FloatArray = np.ndarray[Any, np.dtype[np.float64]]

#: Chance that the confidence set of the nuisance misses; added to every p-value.
_MISSED: Final = 1e-8
_GRID: Final = 48
_BISECTIONS: Final = 30


@dataclass(frozen=True, kw_only=True)
class Flips:
    """Changed answers of n paired cases."""

    #: Right before, wrong now.
    lost: int
    #: Wrong before, right now.
    gained: int
    cases: int

    @property
    def loss(self) -> float:
        """Share of the cases by which right answers fell; 0 without cases."""
        return (self.lost - self.gained) / self.cases if self.cases else 0.0

    @property
    def share(self) -> float:
        """Share of the cases whose answer changed; 0 without cases."""
        return (self.lost + self.gained) / self.cases if self.cases else 0.0

    @property
    def mirrored(self) -> Flips:
        """The same seen from the other side."""
        return Flips(lost=self.gained, gained=self.lost, cases=self.cases)


def flips(before: Any, now: Any) -> Flips:
    """Count the changes between two boolean arrays of the same cases."""
    before, now = np.asarray(before, dtype=bool), np.asarray(now, dtype=bool)
    return Flips(
        lost=int((before & ~now).sum()),
        gained=int((~before & now).sum()),
        cases=len(before),
    )


@functools.lru_cache(1 << 16)
def loss_p_value(table: Flips, margin: float = 0.0) -> float:
    """P-value of "the loss is at most `margin`"; small: worse than that.

    No cases, no changes or a loss below the margin give 1.

    Args:
        table: the changed answers.
        margin: share of the cases, from -1 to 1.
    """
    n = table.cases
    if n == 0 or table.loss <= margin:
        return 1.0
    if margin >= 1:
        return 1.0
    if margin <= -1:
        return _MISSED
    observed = float(_score(table.lost, table.gained, n, margin))
    low, high = _share_bounds(table)
    low = max(low, abs(margin))
    high = max(min(high, 1.0), low)
    shares = np.unique(np.concatenate([np.geomspace(max(low, 1e-9), high, _GRID)]))
    lost, gained = (shares + margin) / 2, (shares - margin) / 2
    likely = float(gained.max())
    most = min(n, int(n * likely + 8 * math.sqrt(n * likely) + 20))
    least = _rejected_from(np.arange(most + 1), n, margin, observed)
    return min(1.0, float(_chance(least, lost, gained, n).max()) + _MISSED)


@functools.lru_cache(1 << 16)
def loss_bounds(table: Flips, level: float) -> tuple[float, float]:
    """Lower and upper bound of the loss, each wrong with chance at most `level`.

    Found by inverting `loss_p_value`, so a loss is beyond a margin at `level` exactly
    when the lower bound is.
    """
    if table.cases == 0:
        return -1.0, 1.0
    return _lower(table, level), -_lower(table.mirrored, level)


def detectable_loss(table: Flips, margin: float, level: float, power: float) -> float:
    """Smallest true loss above `margin` that is found with chance `power`.

    From the normal approximation of the score test, with the churn that was seen
    (answers that change either way) as the churn to come; 1 when nothing is found.
    """
    from scipy.special import ndtri

    if table.cases == 0:
        return 1.0
    z_level, z_power = float(-ndtri(min(level, 0.5))), float(ndtri(power))
    churn = 2 * min(table.lost, table.gained) / table.cases
    low, high = 0.0, 1.0
    for _ in range(_BISECTIONS):
        middle = (low + high) / 2
        share = min(churn + margin + middle, 1.0)
        reach = z_level * math.sqrt(share)
        reach += z_power * math.sqrt(max(share - middle**2, 0.0))
        if math.sqrt(table.cases) * middle < reach:
            low = middle
        else:
            high = middle
    return high


def share_bounds(count: int, cases: int, level: float) -> tuple[float, float]:
    """Clopper-Pearson bounds of a share, each wrong with chance at most `level`."""
    from scipy.special import betaincinv

    if cases == 0:
        return 0.0, 1.0
    low = float(betaincinv(count, cases - count + 1, level)) if count else 0.0
    if count == cases:
        return low, 1.0
    return low, float(betaincinv(count + 1, cases - count, 1 - level))


def _share_bounds(table: Flips) -> tuple[float, float]:
    return share_bounds(table.lost + table.gained, table.cases, _MISSED / 2)


def _score(lost: Any, gained: Any, n: int, margin: float) -> Any:
    """Tango's score statistic; 0 for a table without changes at margin 0."""
    lost, gained = np.asarray(lost, float), np.asarray(gained, float)
    linear = -lost - gained + (2 * n - lost + gained) * margin
    constant = -gained * margin * (1 - margin)
    root = np.sqrt(np.maximum(linear**2 - 8 * n * constant, 0.0))
    share = (root - linear) / (4 * n)
    variance = n * np.maximum(2 * share + margin * (1 - margin), 0.0)
    excess = lost - gained - n * margin
    with np.errstate(divide="ignore", invalid="ignore"):
        z = excess / np.sqrt(variance)
    return np.where(variance > 0, z, np.sign(excess) * np.where(excess, np.inf, 0))


def _rejected_from(gained: Any, n: int, margin: float, observed: float) -> Any:
    """For each number gained, the fewest lost that are as extreme as observed."""
    low, high = np.zeros(len(gained), int), n - gained + 1
    threshold = observed - 1e-9 * max(1.0, abs(observed))
    while (low < high).any():
        middle = (low + high) // 2
        extreme = _score(middle, gained, n, margin) >= threshold
        high = np.where(extreme & (low < high), middle, high)
        low = np.where(~extreme & (low < high), middle + 1, low)
    return low


def _chance(least: Any, lost: FloatArray, gained: FloatArray, n: int) -> FloatArray:
    """Chance of a table at least as extreme, for each pair of true shares."""
    from scipy.special import bdtr, bdtrc

    counts = np.arange(len(least))
    gained = np.clip(gained, 0.0, 1.0)[:, None]
    rest = np.clip(lost[:, None] / np.maximum(1 - gained, 1e-300), 0.0, 1.0)
    # P(exactly c gained) as a difference of the distribution function.
    cumulative = bdtr(counts, n, gained)
    weight = np.diff(cumulative, axis=1, prepend=0.0)
    trials = n - counts
    enough = np.where(least <= 0, 1.0, bdtrc(np.maximum(least - 1, 0), trials, rest))
    enough = np.where(least > trials, 0.0, enough)
    total: FloatArray = (weight * enough).sum(axis=1)
    # Tables with more gained than were enumerated are counted as extreme.
    total += 1 - cumulative[:, -1]
    return total


def _lower(table: Flips, level: float) -> float:
    """The smallest margin that the test does not reject at `level`."""
    low, high = -1.0, table.loss
    if loss_p_value(table, high - 1e-12) <= level:
        return high
    for _ in range(_BISECTIONS):
        middle = (low + high) / 2
        if loss_p_value(table, middle) <= level:
            low = middle
        else:
            high = middle
    return low
