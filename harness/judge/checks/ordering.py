"""More bits are not worse: two targets of one run, case by case."""

from __future__ import annotations

import math
from typing import Final

import numpy as np

from harness.judge.checks.distance import seed_of
from harness.judge.evidence import Evidence, OrderingEvidence
from harness.judge.levels import POWER, Levels
from harness.judge.outcome import Findings, Outcome, passed, result
from harness.judge.statistics.mean import Mean, resampled_mean
from harness.judge.statistics.paired_ratio import Rise, resampled_rise
from harness.judge.types import Measurement, Verdict

#: What is worse than what it was declared to be no worse than is a regression.
_CHECK: Final = "regression"
_TEST: Final = "ordering"


def ordering(evidence: Evidence, levels: Levels) -> Outcome:
    """`regression` when the target is worse than one with fewer bits.

    Each `[[ordering]]` of the suite is one paired, one-sided test over the cases that
    both ran, cases of one prompt resampled together, at its level of the run's alpha.
    A pair that cannot be judged passes and says why; a metric that the run does not
    have is `vacuous`.
    """
    findings = Findings()
    for entry in evidence.orderings:
        name = f"{_TEST}.{entry.metric}[{entry.other}]"
        if entry.unjudged:
            findings.results.append(
                passed(_CHECK, f"{name}: not judged ({entry.unjudged})")
            )
        elif not entry.cases:
            reason = (
                f"{name}: cases with this metric=0, but should be at least 1 "
                f"[{entry.source}; measured: {', '.join(entry.known) or 'nothing'}]"
            )
            findings.results.append(result(_CHECK, Verdict.VACUOUS, reason))
        else:
            _judge(evidence, entry, name, levels, findings)
    return findings.outcome()


def _estimate(evidence: Evidence, entry: OrderingEvidence, name: str) -> Rise | Mean:
    """How much worse than the other, pooled (drift) or as a mean over cases."""
    seed = seed_of(evidence, name)
    if entry.reference_sq is not None:
        return resampled_rise(
            entry.own,
            entry.others,
            entry.reference_sq,
            seed=seed,
            clusters=entry.clusters,
        )
    with np.errstate(invalid="ignore"):
        worse = entry.own - entry.others
    # Two that are infinitely far are equal; a NaN is worse than anything.
    worse = np.where(entry.own == entry.others, 0.0, worse)
    worse = worse if entry.better == "lower" else -worse
    worse = np.where(np.isnan(worse), np.inf, worse)
    return resampled_mean(worse, seed=seed, clusters=entry.clusters)


def _judge(
    evidence: Evidence,
    entry: OrderingEvidence,
    name: str,
    levels: Levels,
    findings: Findings,
) -> None:
    test = f"{_TEST}:{entry.metric}[{entry.other}]"
    found, level = _estimate(evidence, entry, name), levels.of(test)
    p = found.p_above(entry.limit)
    findings.tests[test] = p
    low, high = found.bounds(level)
    detectable = (
        found.detectable(level, POWER)
        if isinstance(found, Rise)
        else found.detectable(entry.limit, level, POWER)
    )
    findings.measurements.append(
        Measurement(
            name=name,
            value=found.value,
            low=low,
            high=high,
            budget=entry.limit,
            budget_source=f"{entry.source}: {entry.other} has fewer bits",
            cases=found.clusters,
            error=found.error,
        )
    )
    shared = {
        "test": "paired clustered bootstrap-t, one-sided",
        "alpha": level,
        "power": POWER,
        "detectable": detectable,
        "cases": found.clusters,
        "measurement": name,
    }
    if low > entry.limit or math.isnan(found.value):
        reason = (
            f"{entry.metric} is worse by {found.value:.3g} than that of {entry.other}, "
            f"which has fewer bits, but should be by at most {entry.limit:.3g} "
            f"[{low:.3g} to {high:.3g} over {found.clusters} clusters of cases, "
            f"p={p:.2g}; {entry.source}]"
        )
        findings.results.append(result(_CHECK, Verdict.REGRESSION, reason, **shared))
        return
    reason = (
        f"{name}={found.value:.3g} ({low:.3g} to {high:.3g}): not shown to be worse"
    )
    findings.results.append(passed(_CHECK, reason, **shared))
