"""What one check hands back: decisions, measurements and the tests they rest on."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from harness.judge.types import CheckResult, Measurement, OperatorResult, Verdict


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """Everything a check found out; empty when the evidence has nothing for it."""

    results: tuple[CheckResult, ...] = ()
    measurements: tuple[Measurement, ...] = ()
    operators: tuple[OperatorResult, ...] = ()
    #: Ways from operators to the next one.
    paths: tuple[OperatorResult, ...] = ()
    #: Test name (`check:what`) -> p-value; `levels` turns them into a family.
    tests: Mapping[str, float] = field(default_factory=dict)


@dataclass
class Findings:
    """An outcome while a check is putting it together."""

    results: list[CheckResult] = field(default_factory=list)
    measurements: list[Measurement] = field(default_factory=list)
    tests: dict[str, float] = field(default_factory=dict)

    def outcome(self) -> Outcome:
        """What was found, frozen."""
        return Outcome(
            results=tuple(self.results),
            measurements=tuple(self.measurements),
            tests=dict(self.tests),
        )


def passed(check: str, reason: str = "", **evidence: object) -> CheckResult:
    """A decision that nothing is wrong, with its evidence."""
    return result(check, Verdict.PASS, reason, **evidence)


def result(
    check: str, verdict: Verdict, reason: str, **evidence: object
) -> CheckResult:
    """A decision with its evidence (fields of `CheckResult`)."""
    return CheckResult(check=check, verdict=verdict, reason=reason, **evidence)  # type: ignore[arg-type]


def names(items: tuple[str, ...] | list[str], most: int = 3) -> str:
    """The first few names, and how many more there are."""
    shown = ", ".join(items[:most])
    more = len(items) - most
    return f"{shown} and {more} more" if more > 0 else shown
