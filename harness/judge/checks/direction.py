"""Really worse, or only different?

Distance is not direction: near the reference a model can move a lot and answer as
well as before. Scores that have a right side (the right token's probability, a
retrieval's margin) are compared with the reference's own, case by case.
"""

from __future__ import annotations

from typing import Final

import numpy as np

from harness.judge.checks.distance import seed_of
from harness.judge.evidence import Evidence, MetricEvidence
from harness.judge.levels import POWER, Levels
from harness.judge.outcome import Findings, Outcome, passed, result
from harness.judge.statistics.mean import resampled_mean
from harness.judge.statistics.sign_flip import sign_flip_p_value
from harness.judge.types import CheckResult, Measurement, Verdict

_CHECK: Final = "direction"


def direction(evidence: Evidence, levels: Levels) -> Outcome:
    """`drift` when a score is worse than the reference's by more than its margin.

    Judged by an exact paired permutation of signs, one-sided for worse. The margin is
    the budget `<metric>.loss`, 0 where none is stated.
    """
    findings = Findings()
    for metric in evidence.metrics:
        if metric.reference is None or not len(metric.values):
            continue
        name = f"{metric.name}.loss"
        p, found, decision = _judge(evidence, metric, name, levels)
        findings.tests[f"{_CHECK}:{name}"] = p
        findings.measurements.append(found)
        findings.results.append(decision)
    return findings.outcome()


def _judge(
    evidence: Evidence, metric: MetricEvidence, name: str, levels: Levels
) -> tuple[float, Measurement, CheckResult]:
    assert metric.reference is not None  # sanity check
    sign = 1.0 if metric.better == "lower" else -1.0
    loss = sign * (np.asarray(metric.values) - np.asarray(metric.reference))
    loss = np.where(np.isnan(loss), np.inf, loss)
    budget = evidence.budgets.get(name)
    margin = 0.0 if budget is None else budget.limit
    seed, level = seed_of(evidence, name), levels.of(f"{_CHECK}:{name}")
    p = sign_flip_p_value(loss - margin, seed=seed)
    estimate = resampled_mean(loss, seed=seed)
    low, high = estimate.bounds(level)
    found = Measurement(
        name=name,
        value=estimate.value,
        low=low,
        high=high,
        budget=margin,
        budget_source="the reference's own score" if budget is None else budget.source,
        unit=metric.unit,
        cases=len(loss),
    )
    shared = {
        "test": "paired permutation of signs, one-sided",
        "alpha": level,
        "power": POWER,
        "detectable": estimate.detectable(margin, level, POWER),
        "cases": len(loss),
        "measurement": name,
    }
    if p <= level:
        reason = (
            f"{name}={estimate.value:.3g}, but should be at most {margin:.3g} "
            f"[{len(loss)} cases, p={p:.2g}: worse than the reference, not only "
            "different]"
        )
        return p, found, result(_CHECK, Verdict.DRIFT, reason, **shared)
    reason = f"{name}={estimate.value:.3g}: not shown to be worse (p={p:.2g})"
    return p, found, passed(_CHECK, reason, **shared)
