"""Timing two things in turns, so that both share the machine's moods."""

from __future__ import annotations

import gc
import time
from collections.abc import Callable
from typing import Final

import numpy as np

from harness.judge.evidence import LatencyEvidence

_WARM_UP: Final = 3


def interleave(
    reference: Callable[[], object],
    target: Callable[[], object],
    *,
    phase: str,
    pairs: int,
    warm_up: int = _WARM_UP,
    clock: Callable[[], float] = time.perf_counter,
) -> LatencyEvidence:
    """Time both `pairs` times, in turns, who is first alternating.

    Args:
        reference: does the reference's work once, to its end.
        target: does the target's.
        phase: what is timed: "run", "load", "transfer", "serialize".
        pairs: timed rounds, at least 1.
        warm_up: rounds before them that are not counted.
        clock: seconds.

    Raises:
        ValueError: fewer than one pair.
    """
    if pairs < 1:
        raise ValueError(f"pairs={pairs}, but should be at least 1")
    for _ in range(warm_up):
        reference()
        target()
    times = np.empty((pairs, 2))
    collecting = gc.isenabled()
    gc.disable()
    try:
        for index in range(pairs):
            # Alternating who goes first cancels what the one leaves in the caches.
            order = (0, 1) if index % 2 == 0 else (1, 0)
            for which in order:
                work = target if which else reference
                start = clock()
                work()
                times[index, which] = clock() - start
    finally:
        if collecting:
            gc.enable()
    return LatencyEvidence(phase=phase, reference=times[:, 0], target=times[:, 1])
