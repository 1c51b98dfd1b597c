"""Production-style checks: right answers that were lost."""

from __future__ import annotations

import dataclasses
from typing import Final

from harness.judge.budgets import published_margin
from harness.judge.evidence import BehaviourEvidence, Evidence
from harness.judge.levels import POWER, Levels
from harness.judge.outcome import Findings, Outcome, names, passed, result
from harness.judge.slices import slices
from harness.judge.statistics.paired_binary import (
    Flips,
    detectable_loss,
    flips,
    loss_bounds,
    loss_p_value,
    share_bounds,
)
from harness.judge.statistics.sign_flip import sign_flip_p_value
from harness.judge.types import CheckResult, Measurement, Verdict

_CHECK: Final = "behaviour"
#: Of answers that are right when they are the reference's own, the share that may
#: change where no margin is stated: accuracies that were published say nothing of them.
_MOST: Final = 0.5


def behaviour(evidence: Evidence, levels: Levels) -> Outcome:
    """`behaviour` when right answers were lost beyond the margin; exact and paired.

    Without a stated margin the one that was published for the format stands in, and
    a question that the cases cannot answer passes with the smallest loss they would
    show. With one, it is `inconclusive` when that loss exceeds the margin.
    Slices of cases (tags) are asked the same as a family of their own, and only
    what is shown to be lost counts there.
    """
    findings = Findings()
    for entry in evidence.behaviours:
        if entry.unjudged:
            reason = f"{entry.name}: not judged ({entry.unjudged})"
            findings.results.append(passed(_CHECK, reason))
            continue
        if not entry.cases:
            reason = (
                f"cases of behaviour {entry.name}=0, but should be at least 1: give "
                "cases what it reads in `expected`, or take it out of suite.toml"
            )
            findings.results.append(result(_CHECK, Verdict.VACUOUS, reason))
            continue
        if not entry.reference_right.any():
            reason = (
                f"{entry.name}: the reference has none of {len(entry.cases)} cases "
                "right, so nothing can be lost: give it cases that it can do"
            )
            findings.results.append(result(_CHECK, Verdict.VACUOUS, reason))
            continue
        _judge(evidence, entry, levels, findings)
        for tag, positions in slices(evidence.tags, entry.cases).items():
            _judge(evidence, _slice(entry, positions), levels, findings, tag=tag)
    return findings.outcome()


def _slice(entry: BehaviourEvidence, positions: list[int]) -> BehaviourEvidence:
    clusters = entry.clusters
    return dataclasses.replace(
        entry,
        cases=tuple(entry.cases[i] for i in positions),
        reference_right=entry.reference_right[positions],
        target_right=entry.target_right[positions],
        clusters=None if clusters is None else tuple(clusters[i] for i in positions),
    )


def _judge(
    evidence: Evidence,
    entry: BehaviourEvidence,
    levels: Levels,
    findings: Findings,
    *,
    tag: str = "",
) -> None:
    table = flips(entry.reference_right, entry.target_right)
    where = f"[{tag}]" if tag else ""
    test = f"{_CHECK}{'/slices' if tag else ''}:{entry.name}{where}"
    margin, source = _margin(evidence, entry)
    p = _p_value(evidence, entry, table, margin)
    findings.tests[test] = p
    level = levels.of(test)
    low, high = loss_bounds(table, level)
    found = Measurement(
        name=f"{_CHECK}.{entry.name}.loss{where}",
        value=table.loss,
        low=low,
        high=high,
        budget=margin,
        budget_source=source,
        cases=table.cases,
    )
    findings.measurements.append(found)
    decision = _decide(entry, table, found, p, level)
    if not tag:
        findings.results.append(decision)
        share = _flips(evidence, entry, table, level)
        findings.measurements.append(share)
        findings.results += _beyond(share)
    elif decision.verdict.fails:
        reason = f"cases tagged {tag!r}: {decision.reason}"
        findings.results.append(dataclasses.replace(decision, reason=reason))


def _margin(evidence: Evidence, entry: BehaviourEvidence) -> tuple[float, str]:
    """The stated margin, or the published one, and where it came from."""
    if entry.margin is not None:
        return entry.margin, "suite.toml"
    if entry.relative:
        return _MOST, "most are as the reference's: what a format costs is unpublished"
    return published_margin(evidence)


def _p_value(
    evidence: Evidence, entry: BehaviourEvidence, table: Flips, margin: float
) -> float:
    """Exact for independent cases; clusters keep or change their sign together."""
    if entry.clusters is None:
        return loss_p_value(table, margin)
    changes = entry.reference_right.astype(float) - entry.target_right.astype(float)
    return sign_flip_p_value(
        changes - margin, seed=evidence.seed, clusters=entry.clusters
    )


def _flips(
    evidence: Evidence, entry: BehaviourEvidence, table: Flips, level: float
) -> Measurement:
    """Share of cases whose answer changed from right to wrong or back."""
    name = f"{_CHECK}.{entry.name}.flips"
    budget = evidence.budgets.get(name)
    low, high = share_bounds(table.lost + table.gained, table.cases, level)
    return Measurement(
        name=name,
        value=table.share,
        low=low,
        high=high,
        budget=None if budget is None else budget.limit,
        budget_source="" if budget is None else budget.source,
        cases=table.cases,
    )


def _beyond(found: Measurement) -> list[CheckResult]:
    """A budget on flips, which hide behind an unchanged average."""
    if found.budget is None or found.low <= found.budget:
        return []
    reason = (
        f"{found.name}={found.value:.3g}, but should be at most {found.budget:.3g} "
        f"[{found.low:.3g} to {found.high:.3g} over {found.cases} cases; "
        f"{found.budget_source}]"
    )
    return [
        result(
            _CHECK,
            Verdict.BEHAVIOUR,
            reason,
            test="Clopper-Pearson",
            cases=found.cases,
            measurement=found.name,
        )
    ]


def _decide(
    entry: BehaviourEvidence, table: Flips, found: Measurement, p: float, level: float
) -> CheckResult:
    margin = found.budget or 0.0
    detectable = detectable_loss(table, margin, level, POWER)
    test = "exact unconditional McNemar, one-sided"
    if entry.clusters is not None:
        test = "paired permutation of signs by cluster, one-sided"
    shared = {
        "test": test,
        "alpha": level,
        "power": POWER,
        "detectable": detectable,
        "cases": table.cases,
        "measurement": found.name,
    }
    changes = f"{table.lost} lost, {table.gained} gained of {table.cases}"
    if entry.variants:
        changes = (
            f"{table.lost} lost whose original is right, {table.gained} right whose "
            f"original is lost, of {table.cases}"
        )
    if p <= level:
        wrong = [
            case
            for case, before, now in zip(
                entry.cases, entry.reference_right, entry.target_right, strict=True
            )
            if before and not now
        ]
        reason = (
            f"{entry.name}: loss={table.loss:.3g}, but should be at most {margin:.3g} "
            f"[{changes}, p={p:.2g}; lost: {names(wrong)}; {found.budget_source}]"
        )
        return result(_CHECK, Verdict.BEHAVIOUR, reason, **shared)
    if entry.margin and found.high > margin and detectable > margin:
        reason = (
            f"{entry.name}: loss={table.loss:.3g} is not resolved, but should be at "
            f"most {margin:.3g} [{changes}; the smallest loss these cases show is "
            f"{detectable:.3g}: add cases]"
        )
        return result(_CHECK, Verdict.INCONCLUSIVE, reason, **shared)
    reason = f"{entry.name}: loss={table.loss:.3g} ({changes})"
    return passed(_CHECK, reason, **shared)
