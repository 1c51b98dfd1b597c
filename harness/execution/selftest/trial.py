"""One planting in one target, and what the gate said of it."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

from harness.defects import Planting
from harness.judge.types import Verdict


@dataclass(frozen=True, kw_only=True)
class Trial:
    """One planting in one target, and what the gate said."""

    suite: str
    target: str
    planting: Planting | None
    severity: str = ""
    #: "low", "catalogue", "high", "bisect"; "clean" for a control.
    level: str = "catalogue"
    verdict: str = ""
    #: The check that named the verdict.
    check: str = ""
    reason: str = ""
    #: Why the defect was not planted: it fits nothing here.
    unfit: str = ""
    #: Whether it changed any output of an operator; None: the backend cannot say.
    fired: bool | None = None
    #: Whether it changed no more than right backends may differ by, so that it is right
    #: to let it through and no mistake to tell it.
    tolerated: bool = False
    #: The operator that was named first, and the cause.
    operator: str = ""
    cause: str = ""
    confidence: float = 0.0
    #: How far the outputs moved from a clean run's, relative L2; None: not measured.
    moved: float | None = None
    seconds: float = 0.0
    #: Cases that it was judged on.
    cases: int = 0

    @property
    def caught(self) -> bool:
        """Whether the gate failed."""
        return bool(self.verdict) and Verdict(self.verdict).fails

    @property
    def planted(self) -> bool:
        """Whether there was anything to catch: what was caught was there.

        A buffer that is written over leaves every output right until it is asked again.
        """
        there = self.fired is not False or self.caught
        allowed = self.unfit or self.tolerated
        return self.planting is not None and not allowed and there

    def as_dict(self) -> dict[str, Any]:
        """Plain values."""
        found = {
            f.name: getattr(self, f.name)
            for f in dataclasses.fields(self)
            if f.name != "planting"
        }
        planting = self.planting
        found["defect"] = planting.defect if planting else ""
        found["planted_in"] = (planting.operator or "all") if planting else ""
        found["strength"] = planting.strength if planting else None
        return {**found, "caught": self.caught, "planted": self.planted}


@dataclass(frozen=True, kw_only=True)
class Threshold:
    """The smallest strength that was caught, found by bisection."""

    suite: str
    target: str
    defect: str
    parameter: str
    #: The smallest strength that was caught and the largest that was not; None: even
    #: the smallest that was tried is caught.
    caught: float | None
    missed: float | None
