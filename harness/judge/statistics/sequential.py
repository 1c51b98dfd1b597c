"""Looking every night without paying for it: tests that are valid at any time.

A fixed test repeated every night will alarm some night although nothing changed.
Two ways out, both with their state written to the history:

* `Wealth`: a bet against "lost answers are no likelier than gained ones". Each
  changed answer multiplies the wealth; under the null it is a martingale, so it
  exceeds 1/alpha with chance at most alpha over all nights together (Ville 1939).
  The bet is the uniform mixture over all chances above one half, which needs no
  guess of the effect (Robbins 1970).
* `spent_alpha`: the level of the test of one night such that all nights together
  stay below alpha, for tests that are not about answers.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from harness.judge.statistics.paired_binary import Flips


@dataclass(frozen=True, kw_only=True)
class Wealth:
    """What the changed answers of all nights say so far."""

    nights: int = 0
    lost: int = 0
    gained: int = 0
    #: Of which behaviour, and the level that all nights together are held to.
    name: str = ""
    level: float = 0.0

    def after(self, table: Flips) -> Wealth:
        """The state with one more night's changes, of draws not seen before.

        Greedy answers that are the same every night are one night: counting them
        again would count the same evidence twice.
        """
        return dataclasses.replace(
            self,
            nights=self.nights + 1,
            lost=self.lost + table.lost,
            gained=self.gained + table.gained,
        )

    @property
    def log_value(self) -> float:
        """Natural logarithm of the wealth; 0 at the start.

        The mixture over p in (1/2, 1) of p^lost (1-p)^gained, over (1/2)^(both).
        """
        from scipy.special import betainc, betaln

        a, b = self.lost + 1, self.gained + 1
        # 1 - I_{1/2}(a, b) = I_{1/2}(b, a), without cancellation.
        above = float(betainc(b, a, 0.5))
        log_above = math.log(above) if above > 0 else -math.inf
        both = self.lost + self.gained
        return float(betaln(a, b)) + log_above + (both + 1) * math.log(2)

    @property
    def p_value(self) -> float:
        """Valid whenever one looks: at most 1/wealth."""
        return min(1.0, math.exp(-self.log_value)) if self.log_value > 0 else 1.0

    def as_dict(self) -> dict[str, int]:
        """What the history keeps."""
        return {"nights": self.nights, "lost": self.lost, "gained": self.gained}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Wealth:
        """The state that `as_dict` gave."""
        return cls(
            nights=int(data["nights"]),
            lost=int(data["lost"]),
            gained=int(data["gained"]),
        )


def spent_alpha(alpha: float, night: int) -> float:
    """The share of `alpha` for one night, counted from 1: alpha 6 / (pi night)^2.

    All nights together spend exactly `alpha`. A night's level and number belong into
    the history beside its verdicts.

    Raises:
        ValueError: `night` is below 1.
    """
    if night < 1:
        raise ValueError(f"night={night}, but should be at least 1")
    return alpha * 6 / (math.pi * night) ** 2
