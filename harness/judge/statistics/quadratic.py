"""How large a noise energy can be that theory only knows the mean of.

The error of an operator is a sum over very many roundings, so its elements are close
to jointly normal; how they depend on each other (shared scales, shared inputs, one
accumulation order for all) is unknown. Among all normal vectors with the same
expected sum of squares, the sum of squares exceeds c times its mean most often when
all elements are one and the same number: chi-square with one degree of freedom
(Szekely and Bakirov, "Extremal probabilities for Gaussian quadratic forms", 2003; it
holds for tail probabilities up to 0.2152). That tail needs no assumption about the
dependence and no constant.
"""

from __future__ import annotations

import math
from typing import Final

#: The bound holds up to this tail probability; larger ones are reported as 1.
LARGEST_TAIL: Final = 0.2152


def energy_p_value(observed: float, expected: float) -> float:
    """Chance that noise of expected energy `expected` reaches `observed`.

    Zero observed energy gives 1. Zero expected energy gives 0 for any other. NaN and
    Inf observed give 0.
    """
    if observed == 0:
        return 1.0
    if not math.isfinite(observed) or expected <= 0:
        return 0.0
    p = math.erfc(math.sqrt(observed / expected / 2))
    return p if p <= LARGEST_TAIL else 1.0


def energy_factor(level: float) -> float:
    """Factor on the expected root-sum-square that noise exceeds with chance `level`."""
    from scipy.special import ndtri

    return float(-ndtri(min(level, LARGEST_TAIL) / 2))
