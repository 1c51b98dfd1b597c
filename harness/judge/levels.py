"""Which significance level each test of a run is held to.

Tests are named `check:what`. Alpha is split over the checks that tested anything, and
within a check Holm's step-down gives every test its level, so that the chance of even
one false alarm in the whole run stays below alpha whatever the dependence (Holm 1979;
weighted Bonferroni over the checks). A nightly splits its rate of false discoveries the
same way: the false share of all alarms is at most the sum of the checks' shares. One
check with thousands of operators then cannot take the power from one with three
behaviours.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final, Literal, TypeVar

from harness.judge.statistics.families import benjamini_hochberg, holm

#: Largest chance that a gate over faultless targets raises any false alarm.
ALPHA: Final = 0.01
#: Largest expected share of false alarms among those a nightly report raises.
FALSE_DISCOVERY_RATE: Final = 0.05
#: Chance with which the smallest detectable effect is detected.
POWER: Final = 0.8

#: Shares of alpha, relative to each other; 1 for a check that is not listed. Answers
#: are few and binary, so level buys them most: 0.25% instead of 1% costs them a tenth
#: of their power, and an operator's limit 13%.
SHARES: Final[Mapping[str, float]] = {"behaviour": 4.0, "direction": 2.0}

Mode = Literal["gate", "nightly"]
Key = TypeVar("Key", bound=Hashable)


@dataclass(frozen=True, kw_only=True)
class Levels:
    """The level of every test of one target."""

    #: For a test that is not listed.
    alpha: float = ALPHA
    by_test: Mapping[str, float] = field(default_factory=dict)
    #: How the levels were found, for the report.
    family: str = "alone"

    def of(self, test: str) -> float:
        """Reject `test` when its p-value is at most this."""
        return self.by_test.get(test, self.alpha)


def run_levels(
    tests: Sequence[Mapping[str, float]], *, mode: Mode = "gate", alpha: float = ALPHA
) -> list[Levels]:
    """The levels of every target's tests, from all p-values of the run.

    Args:
        tests: for every target, test name -> p-value.
        mode: "gate" holds the family-wise error below `alpha` (Holm); "nightly" the
            false discovery rate (Benjamini-Hochberg).
        alpha: the error to hold.
    """
    every = {
        (target, name): p
        for target, named in enumerate(tests)
        for name, p in named.items()
    }
    kinds: dict[str, dict[tuple[int, str], float]] = {}
    for key, p in every.items():
        kinds.setdefault(key[1].partition(":")[0], {})[key] = p
    procedure = benjamini_hochberg if mode == "nightly" else holm
    found: dict[tuple[int, str], float] = {}
    whole = sum(SHARES.get(kind, 1.0) for kind in kinds)
    for kind, group in kinds.items():
        found.update(procedure(group, alpha * SHARES.get(kind, 1.0) / whole))
    how, held = (
        ("Benjamini-Hochberg", "rate") if mode == "nightly" else ("Holm", "alpha")
    )
    family = f"{how} over {len(every)} tests of {len(kinds)} checks, {held} {alpha:.3g}"
    return [
        Levels(
            alpha=alpha,
            by_test={name: found[target, name] for name in named},
            family=family,
        )
        for target, named in enumerate(tests)
    ]
