"""Metrics against the baseline's, case by case, where a rise has a budget."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import numpy as np

from harness.judge.checks.distance import seed_of
from harness.judge.evidence import BaselineEvidence, Evidence, FloatArray
from harness.judge.evidence import MetricEvidence as Metric
from harness.judge.levels import POWER, Levels
from harness.judge.outcome import Findings, passed, result
from harness.judge.statistics.mean import resampled_mean
from harness.judge.types import Measurement, Verdict

_CHECK: Final = "regression"


def judge_metrics(
    evidence: Evidence,
    baseline: BaselineEvidence,
    levels: Levels,
    findings: Findings,
    environment: Callable[[BaselineEvidence], str],
) -> None:
    """Test every metric that has a budget `regression.OUTPUT.METRIC`.

    The budget is the mean change for the worse that is allowed; a metric of which the
    baseline kept nothing, or no case in common, is `stale`.
    """
    for entry in evidence.metrics:
        name = f"{_CHECK}.{entry.name}"
        budget = evidence.budgets.get(name)
        if budget is None:
            continue
        worse = _worse(entry, baseline.metrics.get(entry.name))
        if not len(worse):
            reason = f"{name}: baseline {baseline.run} has no case of it in common"
            findings.results.append(result(_CHECK, Verdict.STALE, reason))
            continue
        rise = resampled_mean(worse, seed=seed_of(evidence, name))
        test = f"{_CHECK}:{entry.name}"
        level = levels.of(test)
        low, high = rise.bounds(level)
        findings.tests[test] = rise.p_above(budget.limit)
        findings.measurements.append(
            Measurement(
                name=name,
                value=rise.value,
                low=low,
                high=high,
                budget=budget.limit,
                budget_source=budget.source,
                unit=entry.unit,
                cases=rise.clusters,
            )
        )
        shared = {
            "test": "paired bootstrap-t of the mean change, one-sided",
            "alpha": level,
            "power": POWER,
            "detectable": rise.detectable(budget.limit, level, POWER),
            "cases": rise.clusters,
            "measurement": name,
        }
        if low <= budget.limit:
            reason = f"{entry.name} worse by {rise.value:.3g} ({low:.3g} to {high:.3g})"
            findings.results.append(passed(_CHECK, reason, **shared))
            continue
        reason = (
            f"{entry.name} is worse by {rise.value:.3g}, but should be by at most "
            f"{budget.limit:.3g} [{low:.3g} to {high:.3g} over {rise.clusters} cases "
            f"against {baseline.run}; {environment(baseline)}]"
        )
        findings.results.append(result(_CHECK, Verdict.REGRESSION, reason, **shared))


def _worse(now: Metric, before: Metric | None) -> FloatArray:
    """How much worse each common case is; equal infinities are no change."""
    if before is None:
        return np.zeros(0)
    then = dict(zip(before.cases, before.values, strict=True))
    sign = 1.0 if now.better == "lower" else -1.0
    pairs = [
        (float(value), float(then[case]))
        for case, value in zip(now.cases, now.values, strict=True)
        if case in then
    ]
    return np.array([0.0 if a == b else sign * (a - b) for a, b in pairs])
