"""Latency and memory, only ever against the same machine in the same run."""

from __future__ import annotations

from typing import Final

from harness.judge.checks.distance import seed_of
from harness.judge.evidence import Evidence, LatencyEvidence
from harness.judge.levels import POWER, Levels
from harness.judge.outcome import Findings, Outcome, passed, result
from harness.judge.statistics.latency import speed_ratio
from harness.judge.types import Measurement, Verdict

_CHECK: Final = "cost"


def cost(evidence: Evidence, levels: Levels) -> Outcome:
    """`behaviour` when a ratio of times or bytes is beyond its budget for certain.

    Measured is target / reference, interleaved in one run. Budgets are called
    `cost.<phase>` for the ratio of medians and `cost.<phase>.p95` for that of a
    percentile. A phase without a budget is shown, not judged.
    """
    findings = Findings()
    for entry in evidence.latency:
        for suffix, percentile in (("", 50.0), (".p95", 95.0), (".p99", 99.0)):
            name = f"{_CHECK}.{entry.phase}{suffix}"
            if suffix and name not in evidence.budgets:
                continue
            _judge(evidence, entry, name, percentile, levels=levels, into=findings)
    return findings.outcome()


def _judge(
    evidence: Evidence,
    entry: LatencyEvidence,
    name: str,
    percentile: float,
    *,
    levels: Levels,
    into: Findings,
) -> None:
    ratio = speed_ratio(
        entry.reference,
        entry.target,
        percentile=percentile,
        seed=seed_of(evidence, name),
    )
    test = f"{_CHECK}:{name.removeprefix('cost.')}"
    level = levels.of(test)
    # Bytes are counted, not sampled.
    counted = entry.unit == "bytes"
    low, high = (ratio.value, ratio.value) if counted else ratio.bounds(level)
    budget = evidence.budgets.get(name)
    into.measurements.append(
        Measurement(
            name=name,
            value=ratio.value,
            low=low,
            high=high,
            budget=None if budget is None else budget.limit,
            budget_source="" if budget is None else budget.source,
            unit=f"x reference, {entry.unit}",
            cases=ratio.pairs,
        )
    )
    if budget is None:
        return
    if counted:
        into.tests[test] = float(low <= budget.limit)
    else:
        into.tests[test] = ratio.p_above(budget.limit)
    shared = {
        "test": "exact count"
        if counted
        else "interleaved pairs, block bootstrap of the ratio, one-sided",
        "alpha": level,
        "power": POWER,
        "cases": ratio.pairs,
        "measurement": name,
    }
    if low > budget.limit:
        reason = (
            f"{name}={ratio.value:.3g} times the reference, but should be at most "
            f"{budget.limit:.3g} [{low:.3g} to {high:.3g} over {ratio.pairs} "
            f"{'counts' if counted else 'interleaved pairs'}; {budget.source}]"
        )
        into.results.append(result(_CHECK, Verdict.BEHAVIOUR, reason, **shared))
    else:
        reason = f"{name}={ratio.value:.3g} times the reference"
        into.results.append(passed(_CHECK, reason, **shared))
