"""Answers lost night after night: a test that may be looked at every night."""

from __future__ import annotations

from typing import Final

from harness.judge.evidence import Evidence
from harness.judge.levels import Levels
from harness.judge.outcome import Outcome, passed, result
from harness.judge.statistics.sequential import Wealth
from harness.judge.types import CheckResult, Verdict

#: What it decides on is a regression, over nights.
_CHECK: Final = "regression"


def nights(evidence: Evidence, levels: Levels) -> Outcome:  # noqa: ARG001
    """`regression` when more answers were lost than gained over all nights together.

    The state of each behaviour holds its own level for all nights together, whatever
    the other tests of tonight are held to: it is a bet, no p-value of one night. On
    the first night there is nothing to compare, and nothing passes.
    """
    compared = (entry for entry in evidence.nights if entry.nights)
    return Outcome(results=tuple(_judge(entry) for entry in compared))


def _judge(entry: Wealth) -> CheckResult:
    p = entry.p_value
    counts = (
        f"{entry.name}: lost={entry.lost}, gained={entry.gained} "
        f"over {entry.nights} nights"
    )
    shared = {
        "test": "always-valid mixture bet on lost against gained answers",
        "alpha": entry.level,
        "cases": entry.lost + entry.gained,
        "measurement": f"nights.{entry.name}",
    }
    if p <= entry.level:
        reason = (
            f"{counts}, but should be as many of both [p={p:.2g} at any night, "
            f"level {entry.level:.2g} for all of them]"
        )
        return result(_CHECK, Verdict.REGRESSION, reason, **shared)
    return passed(_CHECK, f"{counts} (p={p:.2g})", **shared)
