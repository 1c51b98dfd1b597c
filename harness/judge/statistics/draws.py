"""Few independent draws of a device: intervals, and tests of means and of tails.

Draws are devices, or runs of one, that share nothing but what they should be. Their
values are taken as roughly normal (logarithms of distances are), so means are tested by
Student's t and, between two sets, by Welch's; tails by counting, which assumes nothing.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

FloatArray = np.ndarray[Any, np.dtype[np.float64]]


def _moments(values: FloatArray) -> tuple[float, float]:
    """Mean and its standard error; an error below rounding is 0."""
    mean = float(values.mean())
    error = float(values.std(ddof=1) / math.sqrt(len(values)))
    return mean, error if error > 1e-12 * max(abs(mean), 1e-300) else 0.0


def interval(values: FloatArray, level: float) -> tuple[float, float]:
    """Bounds of the mean, each wrong with chance `level`; without ends below two."""
    from scipy.stats import t

    if len(values) < 2 or not np.isfinite(values).all():
        return -math.inf, math.inf
    mean, error = _moments(values)
    reach = float(t.isf(level, len(values) - 1)) * error
    return mean - reach, mean + reach


def mean_above(values: FloatArray, limit: float) -> float:
    """P-value of "the mean is at most `limit`"; NaN or Inf among values gives 0."""
    from scipy.stats import t

    if not np.isfinite(values).all():
        return 0.0
    if len(values) < 2:
        return 1.0
    mean, error = _moments(values)
    if error == 0:
        return 0.0 if mean > limit else 1.0
    return float(t.sf((mean - limit) / error, len(values) - 1))


def mean_apart(values: FloatArray, reach: float) -> float:
    """P-value of "the mean is between -`reach` and `reach`", two-sided."""
    one = min(mean_above(values, reach), mean_above(-values, reach))
    return min(1.0, 2 * one)


def mean_moved(now: FloatArray, before: FloatArray) -> float:
    """P-value of "the mean is what it was" (Welch 1947), two-sided."""
    return min(1.0, 2 * min(mean_rose(now, before), mean_rose(-now, -before)))


def mean_rose(now: FloatArray, before: FloatArray) -> float:
    """P-value of "the mean is not above what it was" (Welch 1947), one-sided."""
    from scipy.stats import t

    if not np.isfinite(now).all():
        return 0.0 if np.isfinite(before).all() else 1.0
    if len(now) < 2 or len(before) < 2 or not np.isfinite(before).all():
        return 1.0
    (mean, error), (other, other_error) = _moments(now), _moments(before)
    if error == other_error == 0:
        return 0.0 if mean > other + 1e-12 * abs(other) else 1.0
    freedom = _freedom(error, len(now), other_error, len(before))
    return float(t.sf((mean - other) / math.hypot(error, other_error), freedom))


def tail_rose(now: FloatArray, before: FloatArray) -> float:
    """P-value of as many draws beyond all earlier ones, if nothing changed.

    The k largest of all m + n draws are all among the m new ones with chance
    C(m, k)/C(m + n, k), whatever the distribution (Rosenbaum 1954).
    """
    if not len(now) or not len(before):
        return 1.0
    beyond = int((~(now <= before.max())).sum())
    both = len(now) + len(before)
    return math.comb(len(now), beyond) / math.comb(both, beyond)


def rise(now: FloatArray, before: FloatArray, level: float) -> tuple[float, ...]:
    """By how much the mean rose, and bounds of it, each wrong with chance `level`."""
    from scipy.stats import t

    if min(len(now), len(before)) < 2:
        return math.nan, -math.inf, math.inf
    (mean, error), (other, other_error) = _moments(now), _moments(before)
    freedom = _freedom(error, len(now), other_error, len(before))
    reach = float(t.isf(level, freedom)) * math.hypot(error, other_error)
    return mean - other, mean - other - reach, mean - other + reach


def channel_p_value(least: float, draws: int, among: int) -> float:
    """Chance that any of `among` channels has ratios of at least this in every draw.

    Squared error over its declared mean is above c with a chance of at most 1/c,
    whatever its distribution (Markov); draws are independent; Bonferroni over the
    channels. That of one draw says next to nothing: where few cells carry a channel
    its tail is far from a normal one's.
    """
    if math.isnan(least):
        return 0.0
    if least <= 1:
        return 1.0
    return min(1.0, among * math.exp(-draws * math.log(least)))


def _freedom(error: float, count: int, other: float, others: int) -> float:
    """Degrees of freedom of Welch and Satterthwaite."""
    if error == other == 0:
        return float(count + others - 2)
    return (error**2 + other**2) ** 2 / (
        error**4 / (count - 1) + other**4 / (others - 1)
    )


def draws_needed(first: FloatArray, half_width: float, level: float) -> int:
    """Draws in all for an interval of at most +- `half_width` (Stein 1945).

    The spread of the first draws decides, so that the interval, with their degrees of
    freedom, is as sure as it says, however many follow.
    """
    from scipy.stats import t

    if len(first) < 2 or not np.isfinite(first).all():
        return len(first)
    reach = float(t.isf(level, len(first) - 1)) * float(first.std(ddof=1))
    return max(len(first), math.ceil((reach / half_width) ** 2))
