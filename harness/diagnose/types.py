"""What a diagnosis says of one operator."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from harness.diagnose.heat import HeatMap

#: The cause that is named when no candidate accounts for what was seen.
UNKNOWN: Final = "unknown"
#: The cause that the check of subnormal numbers tells by itself.
FLUSHED: Final = "subnormals flushed"
#: A weight that fits what was seen, though nothing that is known makes it: where the
#: error sits, not what it is.
ANOTHER_WEIGHT: Final = "another weight"


@dataclass(frozen=True, kw_only=True)
class Cause:
    """A candidate, and what is left unexplained when the oracle has it too."""

    #: Kind of mistake, a few words.
    name: str
    #: With its parameters: "every scale times 1.02".
    detail: str
    #: ||y - oracle with the candidate|| / ||oracle - full precision||.
    after: float
    #: Numbers that were fitted to the observation; fewer is the better proof.
    fitted: int = 0


@dataclass(frozen=True, kw_only=True)
class Diagnosis:
    """What is wrong with an operator, with the proof."""

    operator: str
    #: A cause's name, or `UNKNOWN`.
    cause: str
    detail: str
    #: 0.99: recomputed with the cause the drift falls to noise; less: part of it.
    confidence: float
    #: Unexplained drift as observed, with the cause planted, and what noise explains.
    before: float
    after: float
    limit: float
    #: Where it shows, if not everywhere: "batch entries from 1 on".
    when: str = ""
    #: Other candidates, the best first.
    others: tuple[Cause, ...] = ()
    #: What was seen, one fact a line.
    facts: tuple[str, ...] = ()
    #: The error by output channel and block of inputs.
    heat: HeatMap | None = None

    @property
    def sentence(self) -> str:
        """The proof, in one line."""
        if self.cause == UNKNOWN:
            return f"{self.operator}: cause unknown (unexplained {self.before:.3g})"
        where = f", {self.when}" if self.when else ""
        return (
            f"{self.operator}: {self.detail}{where}; with this planted, unexplained "
            f"drift falls from {self.before:.3g} to {self.after:.3g}"
        )

    def as_dict(self) -> dict[str, Any]:
        """JSON; `defect`, `operator` and `confidence` are the contract."""
        return {
            "defect": self.cause,
            "operator": self.operator,
            "confidence": self.confidence,
            "detail": self.detail,
            "when": self.when,
            "unexplained": self.before,
            "unexplained_with_defect": self.after,
            "limit": self.limit,
            "sentence": self.sentence,
            "others": [
                {"defect": o.name, "detail": o.detail, "unexplained": o.after}
                for o in self.others
            ],
            "facts": list(self.facts),
            "heat": None if self.heat is None else self.heat.as_dict(),
        }
