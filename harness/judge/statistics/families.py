"""Many tests at once: the level each is held to."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from typing import TypeVar

Key = TypeVar("Key", bound=Hashable)


def holm(p_values: Mapping[Key, float], alpha: float) -> dict[Key, float]:
    """The level at which Holm's step-down holds each test.

    A test is rejected exactly when its p-value is at most its level, and the chance
    of any false rejection is at most `alpha` under every dependence (Holm 1979).

    Args:
        p_values: test -> p-value; NaN counts as 1.
        alpha: family-wise error rate.
    """
    order = sorted(p_values, key=lambda key: _usable(p_values[key]))
    levels: dict[Key, float] = {}
    stopped: float | None = None
    for step, key in enumerate(order):
        level = alpha / (len(order) - step)
        if stopped is None and _usable(p_values[key]) > level:
            stopped = level
        levels[key] = level if stopped is None else stopped
    return levels


def benjamini_hochberg(p_values: Mapping[Key, float], rate: float) -> dict[Key, float]:
    """The common level of the step-up test of Benjamini and Hochberg (1995).

    A test is rejected exactly when its p-value is at most its level; the expected
    share of false rejections is at most `rate` for independent or positively
    dependent tests.

    Args:
        p_values: test -> p-value; NaN counts as 1.
        rate: false discovery rate.
    """
    ordered = sorted(_usable(p) for p in p_values.values())
    count = len(ordered)
    largest = max(
        (k for k, p in enumerate(ordered, start=1) if p <= rate * k / count),
        default=1,
    )
    return dict.fromkeys(p_values, rate * largest / count if count else rate)


def _usable(p: float) -> float:
    return p if p == p else 1.0  # noqa: PLR0124 - NaN
