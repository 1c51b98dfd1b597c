"""Where the error sits: by axis, by block, and at which period it comes again."""

from __future__ import annotations

import math
from typing import Any, Final

import numpy as np

from harness.compare.comparison import AxisProfile, BlockError
from harness.compare.moments import Moments

Array = np.ndarray[Any, np.dtype[Any]]

#: An autocorrelation below this is no period: half of the error's variance along the
#: axis does not repeat.
WEAKEST_PERIOD: Final = 0.5


def axis_profiles(moments: Moments, shape: tuple[int, ...]) -> tuple[AxisProfile, ...]:
    """Profiles of every axis whose energies were kept, in order of the axes."""
    if not shape:
        return ()
    found = []
    if moments.by_row is not None and len(shape) > 1:
        leading = moments.by_row.reshape(2, *shape[:-1])
        for axis in range(len(shape) - 1):
            others = tuple(i + 1 for i in range(len(shape) - 1) if i != axis)
            found.append(_profile(axis, leading.sum(axis=others), moments, shape[axis]))
    if moments.by_column is not None:
        found.append(_profile(len(shape) - 1, moments.by_column, moments, shape[-1]))
    return tuple(found)


def _profile(axis: int, energy: Array, moments: Moments, length: int) -> AxisProfile:
    error, signal = energy
    total = float(error.sum())
    worst = int(error.argmax())
    period, strength = find_period(error)
    with np.errstate(divide="ignore", invalid="ignore"):
        ratio = 10 * np.log10(signal / error)
    # 0 / 0: a position without signal and without error is faultless.
    ratio = np.where(error == 0, np.inf, ratio)
    return AxisProfile(
        axis=axis,
        rms_error=np.sqrt(error * length / moments.elements) / moments.scale,
        sqnr_db=ratio,
        worst=worst,
        worst_share=float(error[worst]) / total if total > 0 else 0.0,
        period=period,
        period_strength=strength,
    )


def find_period(profile: Array) -> tuple[int | None, float]:
    """Smallest distance at which a profile repeats, and how strongly.

    The autocorrelation of the profile without its mean, unbiased and normalised. A
    period must be at least 0.5 strong, stand above its neighbours and fit three
    times. Constant profiles have none.

    Returns:
        (None, 0.0) where there is no period.
    """
    length = len(profile)
    if length < 6:
        return None, 0.0
    peak = float(np.abs(profile).max())
    if peak == 0 or not math.isfinite(peak):
        return None, 0.0
    centred = profile / peak
    centred = centred - centred.mean()
    power = np.abs(np.fft.rfft(centred, 2 * length)) ** 2
    raw = np.fft.irfft(power)[: length // 3 + 1]
    if raw[0] <= 1e-24 * length:
        return None, 0.0
    lags = np.arange(len(raw))
    correlation = raw / raw[0] * length / (length - lags)
    # Noise of n independent positions correlates with 1 / sqrt(n) at any lag.
    limit = max(WEAKEST_PERIOD, 4 / math.sqrt(length))
    best = correlation[2:].max(initial=0.0)
    if best < limit:
        return None, 0.0
    peaks = np.flatnonzero(correlation[2:] >= max(limit, 0.9 * best)) + 2
    for lag in peaks:
        after = correlation[lag + 1] if lag + 1 < len(correlation) else 0.0
        if correlation[lag] > correlation[lag - 1] and correlation[lag] > after:
            return int(lag), min(1.0, float(correlation[lag]))
    return None, 0.0


def worst_blocks(moments: Moments, shape: tuple[int, ...]) -> tuple[BlockError, ...]:
    """The worst block of each width that divides the last axis."""
    total = moments.total("error_sq")
    if total == 0 or not shape:
        return ()
    mean = total / moments.elements
    found = []
    for width, (energy, row, column) in moments.worst_blocks.items():
        leading = np.unravel_index(row, shape[:-1]) if len(shape) > 1 else ()
        index = (*(int(i) for i in leading), column)
        times = math.sqrt(energy / width / mean)
        found.append(BlockError(width=width, index=index, times_rms=times))
    return tuple(found)
