"""Drift and every metric with a budget: beyond it, within it, or not resolved."""

from __future__ import annotations

import dataclasses
import math
import zlib
from collections.abc import Sequence
from typing import Final

import numpy as np

from harness.judge.budgets import theory_drift
from harness.judge.evidence import Budget, Evidence, MetricEvidence, Paired
from harness.judge.levels import POWER, Levels
from harness.judge.outcome import Findings, Outcome, names, passed, result
from harness.judge.slices import slices
from harness.judge.statistics.mean import Mean, resampled_mean
from harness.judge.statistics.quantile import Quantile, clustered_quantile
from harness.judge.statistics.ratio import Ratio, pooled
from harness.judge.types import CheckResult, Measurement, Verdict

_CHECK: Final = "distance"


def distance(evidence: Evidence, levels: Levels) -> Outcome:
    """`drift` when a whole interval is beyond its budget; `inconclusive` if unseen.

    An interval that straddles the budget passes when the smallest effect that the
    cases would show is no larger than what is allowed (the budget's margin, or the
    budget itself where none is stated), and is `inconclusive` otherwise.
    """
    findings = Findings()
    if evidence.drift is not None and len(evidence.drift.cases):
        estimate = _ratio(evidence, evidence.drift, "drift")
        budget = evidence.budgets.get("drift") or theory_drift(evidence)
        _judge("drift", estimate, budget, levels, findings)
        if evidence.oracle_drift is not None:
            oracle = _ratio(evidence, evidence.oracle_drift, "drift.oracle")
            findings.measurements.append(
                _measurement("drift.oracle", oracle, None, levels)
            )
            _relative(evidence, levels, findings)
    _slices(evidence, levels, findings)
    for metric in evidence.metrics:
        budget = evidence.budgets.get(metric.name)
        estimate_of = _mean(evidence, metric)
        if estimate_of is None:
            continue
        _judge(
            metric.name,
            estimate_of,
            budget,
            levels,
            findings,
            better=metric.better,
            unit=metric.unit,
        )
        _metric_slices(evidence, metric, levels, findings)
    _quantiles(evidence, levels, findings)
    findings.results += _unmatched(evidence)
    return findings.outcome()


def _relative(evidence: Evidence, levels: Levels, findings: Findings) -> None:
    """Drift in units of the oracle's, case by case: what the backend adds."""
    drift, oracle = evidence.drift, evidence.oracle_drift
    if drift is None or oracle is None or drift.cases != oracle.cases:
        return
    name = "drift.relative"
    paired = dataclasses.replace(drift, reference_sq=oracle.error_sq)
    budget = evidence.budgets.get(name)
    _judge(name, _ratio(evidence, paired, name), budget, levels, findings)


def _slices(evidence: Evidence, levels: Levels, findings: Findings) -> None:
    """Drift of the cases with a tag, wherever `drift[TAG]` has a budget."""
    drift = evidence.drift
    if drift is None:
        return
    for tag, kept in slices(evidence.tags, drift.cases, least=1).items():
        name = f"drift[{tag}]"
        budget = evidence.budgets.get(name)
        if budget is None:
            continue
        clusters = drift.clusters
        part = Paired(
            cases=tuple(drift.cases[i] for i in kept),
            error_sq=drift.error_sq[kept],
            reference_sq=drift.reference_sq[kept],
            clusters=None if clusters is None else tuple(clusters[i] for i in kept),
        )
        _judge(name, _ratio(evidence, part, name), budget, levels, findings)


def _metric_slices(
    evidence: Evidence, metric: MetricEvidence, levels: Levels, findings: Findings
) -> None:
    """The metric over the cases with a tag, wherever `METRIC[TAG]` has a budget."""
    for tag, kept in slices(evidence.tags, metric.cases, least=1).items():
        name = f"{metric.name}[{tag}]"
        budget = evidence.budgets.get(name)
        if budget is None:
            continue
        part = dataclasses.replace(
            metric,
            name=name,
            values=metric.values[kept],
            cases=tuple(metric.cases[i] for i in kept),
        )
        estimate = _mean(evidence, part)
        assert estimate is not None  # sanity check: a slice has cases
        _judge(
            name,
            estimate,
            budget,
            levels,
            findings,
            better=metric.better,
            unit=metric.unit,
        )


def _quantiles(evidence: Evidence, levels: Levels, findings: Findings) -> None:
    """Quantiles over all rows: what the mean over cases hides."""
    for entry in evidence.rows:
        clusters = _clusters(evidence, entry.cases)
        for quantile, share in entry.quantiles.items():
            name = f"{entry.name}.{quantile}"
            _judge(
                name,
                clustered_quantile(entry.rows, share, clusters=clusters),
                evidence.budgets.get(name),
                levels,
                findings,
                better=entry.better,
                unit=entry.unit,
            )


#: Budgets that another check reads, or that not every target can measure.
_ELSEWHERE: Final = (
    "unexplained",
    "unexplained.end_to_end",
    "unexplained.weights",
    "regression.drift",
)


def _unmatched(evidence: Evidence) -> list[CheckResult]:
    """A budget that names nothing measured is not kept, so it must not pass."""
    measured = {"drift", *_ELSEWHERE}
    if evidence.oracle_drift is not None or not evidence.weight_only:
        measured.add("drift.relative")
    if evidence.drift is not None:
        tagged = slices(evidence.tags, evidence.drift.cases, least=1)
        measured |= {f"drift[{tag}]" for tag in tagged}
    for metric in evidence.metrics:
        measured |= {metric.name, f"{metric.name}.loss", f"regression.{metric.name}"}
        tagged = slices(evidence.tags, metric.cases, least=1)
        measured |= {f"{metric.name}[{tag}]" for tag in tagged}
    for rows in evidence.rows:
        measured |= {f"{rows.name}.{quantile}" for quantile in rows.quantiles}
    measured |= {f"behaviour.{entry.name}.flips" for entry in evidence.behaviours}
    for entry in evidence.latency:
        measured |= {f"cost.{entry.phase}{end}" for end in ("", ".p95", ".p99")}
    return [
        result(
            _CHECK,
            Verdict.VACUOUS,
            f"budget {name!r} names nothing that was measured, but should be one of "
            f"{names(sorted(measured), 12)} [{budget.source}]",
        )
        for name, budget in evidence.budgets.items()
        if name not in measured
    ]


def estimates(evidence: Evidence) -> dict[str, Ratio | Mean]:
    """Drift and every metric by name, as this check measures them."""
    found: dict[str, Ratio | Mean] = {}
    if evidence.drift is not None and len(evidence.drift.cases):
        found["drift"] = _ratio(evidence, evidence.drift, "drift")
    for metric in evidence.metrics:
        estimate = _mean(evidence, metric)
        if estimate is not None:
            found[metric.name] = estimate
    return found


def seed_of(evidence: Evidence, name: str) -> int:
    """A seed of its own for every estimate, the same in every run."""
    return evidence.seed ^ zlib.crc32(f"{evidence.backend}/{name}".encode())


def _ratio(evidence: Evidence, paired: Paired, name: str) -> Ratio:
    return pooled(
        np.where(np.isnan(paired.error_sq), np.inf, paired.error_sq),
        paired.reference_sq,
        seed=seed_of(evidence, name),
        clusters=paired.clusters,
    )


def _mean(evidence: Evidence, metric: MetricEvidence) -> Mean | None:
    """The mean over cases; None when there is none."""
    if not len(metric.values):
        return None
    return resampled_mean(
        metric.values,
        seed=seed_of(evidence, metric.name),
        clusters=_clusters(evidence, metric.cases),
    )


def _clusters(evidence: Evidence, cases: Sequence[str]) -> list[str] | None:
    """Document or prompt of each case; None: every case its own."""
    drift = evidence.drift
    if drift is None or drift.clusters is None:
        return None
    of_case = dict(zip(drift.cases, drift.clusters, strict=True))
    return [of_case.get(case, case) for case in cases]


def _measurement(
    name: str,
    estimate: Ratio | Mean | Quantile,
    budget: Budget | None,
    levels: Levels,
    *,
    better: str = "lower",
    unit: str = "",
) -> Measurement:
    low, high = estimate.bounds(levels.of(f"{_CHECK}:{name}"))
    return Measurement(
        name=name,
        value=estimate.value,
        low=low,
        high=high,
        budget=None if budget is None else budget.limit,
        budget_source="" if budget is None else budget.source,
        better=better,
        unit=unit,
        cases=estimate.clusters,
        error=estimate.standard_error or None,
    )


def _judge(
    name: str,
    estimate: Ratio | Mean | Quantile,
    budget: Budget | None,
    levels: Levels,
    findings: Findings,
    *,
    better: str = "lower",
    unit: str = "",
) -> None:
    """Measure; where there is a budget also test and decide."""
    measurement = _measurement(name, estimate, budget, levels, better=better, unit=unit)
    findings.measurements.append(measurement)
    if budget is None:
        return
    test, level = f"{_CHECK}:{name}", levels.of(f"{_CHECK}:{name}")
    lower = better == "lower"
    findings.tests[test] = (
        estimate.p_above(budget.limit) if lower else _below(estimate, budget.limit)
    )
    findings.results.append(_decide(measurement, estimate, budget, level))


def _below(estimate: Ratio | Mean | Quantile, limit: float) -> float:
    assert not isinstance(estimate, Ratio)  # sanity check: ratios are errors
    return estimate.p_below(limit)


def _decide(
    found: Measurement, estimate: Ratio | Mean | Quantile, budget: Budget, level: float
) -> CheckResult:
    """Beyond with the whole interval, straddling, or within."""
    lower = found.better == "lower"
    beyond = found.low > budget.limit if lower else found.high < budget.limit
    within = found.high <= budget.limit if lower else found.low >= budget.limit
    detectable = estimate.detectable(budget.limit, level, POWER)
    allowed = budget.margin or abs(budget.limit)
    interval = f"{found.low:.3g} to {found.high:.3g}"
    shared = {
        "test": "binomial rank test, rows by their design effect, one-sided"
        if isinstance(estimate, Quantile)
        else "clustered bootstrap-t, one-sided",
        "alpha": level,
        "power": POWER,
        "detectable": detectable,
        "cases": estimate.clusters,
        "measurement": found.name,
    }
    side = "at most" if lower else "at least"
    should = f"should be {side} {budget.limit:.3g}"
    place = f"{interval} over {estimate.clusters} cases; limit from {budget.source}"
    if beyond or math.isnan(found.value):
        reason = f"{found.name}={found.value:.3g}, but {should} [{place}]"
        return result(_CHECK, Verdict.DRIFT, reason, **shared)
    if budget.least is not None and found.high < budget.least:
        reason = (
            f"{found.name}={found.value:.3g}, but should be at least "
            f"{budget.least:.3g} [{place}; better than the scheme can be is mostly a "
            "test that does not test]"
        )
        return result(_CHECK, Verdict.VACUOUS, reason, **shared)
    if not within and detectable > allowed:
        reason = (
            f"{found.name}={found.value:.3g} is not resolved, but {should} [{place}; "
            f"the smallest effect these cases show is {detectable:.3g}, allowed is "
            f"{allowed:.3g}: add cases]"
        )
        return result(_CHECK, Verdict.INCONCLUSIVE, reason, **shared)
    reason = f"{found.name}={found.value:.3g} ({interval}), {side} {budget.limit:.3g}"
    return passed(_CHECK, reason, **shared)
