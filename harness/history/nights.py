"""What the nights before say: the state of tests that are repeated every night.

Kept in each run's report under `nights`, so that the history alone holds it: the
number of the night, the level that it was given and what all nights have spent, and
for every behaviour the bet (`judge.statistics.sequential.Wealth`) with the cases that
were answered wrong.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Self

import numpy as np

from harness.errors import UsageError
from harness.judge.evidence import BehaviourEvidence, Evidence
from harness.judge.levels import ALPHA, FALSE_DISCOVERY_RATE
from harness.judge.statistics.paired_binary import flips
from harness.judge.statistics.sequential import Wealth, spent_alpha
from harness.judge.types import Report


@dataclass(frozen=True, kw_only=True)
class Answers:
    """One behaviour of one target: its bet, and what was answered last."""

    wealth: Wealth
    #: Digest of the cases asked, and those of them that were wrong.
    cases: str
    wrong: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class Nights:
    """The state after some nights; the first has none before it."""

    #: Number of the last night, from 1; 0: there was none.
    night: int = 0
    #: Level of that night, and of all nights together so far.
    alpha: float = 0.0
    spent: float = 0.0
    #: `suite/backend/scheme/behaviour` -> its state.
    answers: Mapping[str, Answers] = field(default_factory=dict)

    @classmethod
    def after(cls, reports: Sequence[Report]) -> Self:
        """The state that the newest of a history's reports left.

        Raises:
            UsageError: it is there and cannot be read.
        """
        kept = next((r for r in reversed(reports) if r.nights), None)
        if kept is None:
            return cls()
        try:
            return cls(
                night=int(kept.nights["night"]),
                alpha=float(kept.nights["alpha"]),
                spent=float(kept.nights["spent"]),
                answers={
                    name: Answers(
                        wealth=Wealth.from_dict(entry["wealth"]),
                        cases=str(entry["cases"]),
                        wrong=tuple(entry["wrong"]),
                    )
                    for name, entry in kept.nights["answers"].items()
                },
            )
        except (KeyError, TypeError, ValueError) as error:
            raise UsageError(
                f"run {kept.run}: the state of its nights is not whole ({error!r}); "
                "start a new history"
            ) from None

    def as_dict(self) -> dict[str, Any]:
        """What a report keeps."""
        return {
            "night": self.night,
            "alpha": self.alpha,
            "spent": self.spent,
            "answers": {
                name: {
                    "wealth": entry.wealth.as_dict(),
                    "p": entry.wealth.p_value,
                    "cases": entry.cases,
                    "wrong": list(entry.wrong),
                }
                for name, entry in self.answers.items()
            },
        }

    def tonight(
        self, evidences: Sequence[Evidence]
    ) -> tuple[Self, tuple[Evidence, ...]]:
        """The state after tonight, and the evidence with its bets.

        Answers are compared with last night's, so that one that stays lost is counted
        once. A behaviour that is new, or is asked other cases, starts to be compared
        tomorrow and keeps its bet. A target that did not run tonight keeps its state.
        """
        asked = [
            (f"{entry.suite}/{entry.backend}/{entry.scheme}/{b.name}", b)
            for entry in evidences
            for b in entry.behaviours
        ]
        level = ALPHA / max(1, len({name for name, _ in asked} | set(self.answers)))
        answers = dict(self.answers)
        for name, behaviour in asked:
            answers[name] = _next(self.answers.get(name), behaviour)
        night = self.night + 1
        alpha = spent_alpha(FALSE_DISCOVERY_RATE, night)
        state = replace(
            self, night=night, alpha=alpha, spent=self.spent + alpha, answers=answers
        )
        judged = []
        for entry in evidences:
            prefix = f"{entry.suite}/{entry.backend}/{entry.scheme}"
            bets = tuple(
                replace(answers[f"{prefix}/{b.name}"].wealth, name=b.name, level=level)
                for b in entry.behaviours
            )
            judged.append(replace(entry, nights=bets))
        return state, tuple(judged)


def _next(last: Answers | None, behaviour: BehaviourEvidence) -> Answers:
    """One behaviour's state after tonight."""
    right = behaviour.target_right
    wrong = tuple(c for c, r in zip(behaviour.cases, right, strict=True) if not r)
    digest = hashlib.sha256(json.dumps(behaviour.cases).encode()).hexdigest()[:16]
    wealth = Wealth() if last is None else last.wealth
    if last is not None and last.cases == digest:
        before = np.array([case not in set(last.wrong) for case in behaviour.cases])
        wealth = wealth.after(flips(before, right))
    return Answers(wealth=wealth, cases=digest, wrong=wrong)
