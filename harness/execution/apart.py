"""How far two runs can be apart that are two draws of the same quantization noise."""

from __future__ import annotations

from typing import Final

import numpy as np

from harness.judge.evidence import Paired

#: Chance that two estimates of one variance differ by more than is allowed.
_CHANCE: Final = 1e-6


def two_draws(smaller: float, cases: int, overall: Paired | None) -> float:
    """Largest relative difference of two runs of the same cases.

    sqrt(2) times a drift that both runs may have: what the drift over all cases allows
    on so few, and no more than what the smaller drift of the two allows on these cases.
    Two estimates of one variance differ by a factor that F bounds. A case counts as as
    many degrees of freedom as the drifts of all cases scatter with. That scatter is of
    cases among each other, and of draws of one case: where the same cases are compared,
    a case counts as one degree of freedom at least.

    Args:
        smaller: relative L2 from the reference of the run that drifted less.
        cases: how many cases both runs have, at least one.
        overall: drift over all cases; None: only these are known.
    """
    freedom = 1.0 if overall is None else freedom_of(overall)
    limit = smaller * _factor(max(1.0, freedom), cases, cases)
    if overall is not None:
        among = overall.ratio * _factor(freedom, cases, len(overall.cases))
        limit = min(among, limit)
    return float(np.sqrt(2)) * limit


def freedom_of(drift: Paired) -> float:
    """Degrees of freedom of a case's squared drift: 2 mean^2 / variance over cases.

    1 where fewer than two cases, equal ones or infinite ones tell nothing.
    """
    given = drift.reference_sq > 0
    squares = drift.error_sq[given] / drift.reference_sq[given]
    if squares.size < 2 or not np.isfinite(squares).all() or not np.var(squares) > 0:
        return 1.0
    return float(2 * np.mean(squares) ** 2 / np.var(squares, ddof=1))


def _factor(freedom: float, few: int, many: int) -> float:
    """Between two drifts, of so many cases each, that chance does not exceed."""
    from scipy.stats import f

    return float(np.sqrt(f.isf(_CHANCE, freedom * few, freedom * many)))
