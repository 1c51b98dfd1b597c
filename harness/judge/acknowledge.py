"""Known failures that a person accepts for a while, as they are and no worse.

An acknowledgement that took any failure of a check would hide every later defect of
the target: it holds for the operators that it names and up to the values that it
states.
"""

from __future__ import annotations

import dataclasses
import fnmatch
from collections.abc import Sequence

from harness.judge.evidence import Acknowledgement, Evidence
from harness.judge.outcome import Outcome
from harness.judge.types import CheckResult, OperatorResult, Verdict


def acknowledge(
    evidence: Evidence, outcomes: Sequence[Outcome]
) -> tuple[CheckResult, ...]:
    """The decisions with every acknowledged failure turned into `changed`.

    It is shown and no longer fails. A failure that is worse than what was acknowledged
    still fails, and says so. Expired entries never get here: the ledger does not load
    with one.
    """
    name = f"{evidence.suite}/{evidence.backend}/{evidence.scheme}"
    mine = [
        entry
        for entry in evidence.acknowledgements
        if fnmatch.fnmatchcase(name, entry.target)
    ]
    return tuple(
        _one(result, mine, outcome)
        for outcome in outcomes
        for result in outcome.results
    )


def _one(
    found: CheckResult, known: list[Acknowledgement], outcome: Outcome
) -> CheckResult:
    if not found.verdict.fails:
        return found
    worse = ""
    for entry in known:
        if entry.check != found.check or entry.metric not in ("", found.measurement):
            continue
        beyond = _beyond(entry, found, outcome)
        if not beyond:
            reason = (
                f"acknowledged until {entry.expires} by {entry.author} "
                f"({entry.reason}; {entry.source}): {found.reason}"
            )
            return dataclasses.replace(found, verdict=Verdict.CHANGED, reason=reason)
        worse = f"{beyond}, worse than what {entry.source} acknowledges: "
    return dataclasses.replace(found, reason=worse + found.reason)


def _beyond(entry: Acknowledgement, found: CheckResult, outcome: Outcome) -> str:
    """What is worse than acknowledged; "" if nothing is."""
    shown = {"unexplained": outcome.operators, "unexplained.between": outcome.paths}
    if found.check == "explained" and found.measurement in shown:
        guilty = [part for part in shown[found.measurement] if part.guilty]
        return _worst_operator(entry, guilty)
    measured = {entry.name: entry for entry in outcome.measurements}
    measurement = measured.get(found.measurement)
    if measurement is None:
        # How many outputs, operators or tensors it is about.
        if found.cases < 1:
            return f"{found.check} has no value that a limit could hold"
        if found.cases <= entry.limit:
            return ""
        return f"{found.check} of {found.cases}, at most {entry.limit:g}"
    low = measurement.better == "higher"
    value = measurement.value
    if found.check == "behaviour":
        # A share of cases: on others it varies by chance, and is worse only where its
        # bound is.
        value = measurement.high if low else measurement.low
    within = value >= entry.limit if low else value <= entry.limit
    if within:
        return ""
    side = "at least" if low else "at most"
    return f"{found.measurement}={measurement.value:.3g}, {side} {entry.limit:.3g}"


def _worst_operator(entry: Acknowledgement, guilty: list[OperatorResult]) -> str:
    """The first operator that is not named, or shows more than was accepted."""
    for operator in guilty:
        accepted = _accepted(entry, operator.name)
        if accepted is None:
            return f"operator {operator.name} shows {operator.unexplained:.3g}"
        if not operator.unexplained <= accepted:
            return (
                f"operator {operator.name} shows {operator.unexplained:.3g}, at most "
                f"{accepted:.3g}"
            )
    return ""


def _accepted(entry: Acknowledgement, name: str) -> float | None:
    """How far an operator or path of this name may go; None: it is not named.

    Named itself, or by the first pattern that fits: a fault of attention is in all
    layers.
    """
    if name in entry.operators:
        return entry.operators[name]
    fits = (p for p in entry.operators if fnmatch.fnmatchcase(name, p))
    return next((entry.operators[pattern] for pattern in fits), None)
