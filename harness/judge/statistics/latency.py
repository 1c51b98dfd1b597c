"""The ratio of two times that were measured in turns on one machine."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Final

import numpy as np

FloatArray = np.ndarray[Any, np.dtype[np.float64]]

_DRAWS: Final = 1999


@dataclass(frozen=True, kw_only=True)
class SpeedRatio:
    """Target time over reference time at one percentile."""

    value: float
    #: Standard error of log(value).
    log_error: float
    pairs: int
    blocks: int

    def bounds(self, level: float) -> tuple[float, float]:
        """Lower and upper bound, each wrong with chance `level`."""
        from scipy.special import stdtrit

        if self.blocks < 2:
            return 0.0, math.inf
        reach = float(-stdtrit(self.blocks - 1, level)) * self.log_error
        if reach > 700:
            return 0.0, math.inf
        return self.value * math.exp(-reach), self.value * math.exp(reach)

    def p_above(self, limit: float) -> float:
        """P-value of "the ratio is at most `limit`"."""
        from scipy.special import stdtr

        if self.blocks < 2 or self.value <= limit:
            return 1.0
        if self.log_error == 0 or limit <= 0:
            return 0.0
        t = math.log(self.value / limit) / self.log_error
        return float(stdtr(self.blocks - 1, -t))


def speed_ratio(
    reference: FloatArray, target: FloatArray, *, percentile: float, seed: int
) -> SpeedRatio:
    """Ratio of a percentile of both, with its error from resampled blocks of pairs.

    Neighbours in time share a clock speed and a busy machine, so blocks of about the
    cube root of the number of pairs are drawn together (Kuensch 1989). Times that are
    not positive and finite are left out with their partner.

    Args:
        reference: one time a pair.
        target: the time measured next to it.
        percentile: 50 for the median, 95, 99.
        seed: of the resampling.
    """
    a, b = np.asarray(reference, float), np.asarray(target, float)
    usable = np.isfinite(a) & np.isfinite(b) & (a > 0) & (b > 0)
    a, b = a[usable], b[usable]
    count = len(a)
    if not count:
        return SpeedRatio(value=math.nan, log_error=0.0, pairs=0, blocks=0)
    value = float(np.percentile(b, percentile) / np.percentile(a, percentile))
    length = max(1, round(count ** (1 / 3)))
    blocks = count // length
    if blocks < 2:
        return SpeedRatio(value=value, log_error=0.0, pairs=count, blocks=blocks)
    starts = np.random.default_rng(seed).integers(
        0, count - length + 1, (_DRAWS, math.ceil(count / length))
    )
    chosen = (starts[:, :, None] + np.arange(length)).reshape(_DRAWS, -1)[:, :count]
    logs = np.log(
        np.percentile(b[chosen], percentile, axis=1)
        / np.percentile(a[chosen], percentile, axis=1)
    )
    return SpeedRatio(
        value=value, log_error=float(logs.std(ddof=1)), pairs=count, blocks=blocks
    )
