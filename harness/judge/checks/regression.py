"""Worse than the last accepted run, or only changed?"""

from __future__ import annotations

import math
from collections import Counter
from typing import Final

import numpy as np

from harness.judge.checks.distance import seed_of
from harness.judge.checks.regression_metrics import judge_metrics
from harness.judge.evidence import BaselineEvidence, Evidence, Paired
from harness.judge.levels import POWER, Levels
from harness.judge.outcome import Findings, Outcome, names, passed, result
from harness.judge.slices import slices
from harness.judge.statistics.paired_binary import (
    detectable_loss,
    flips,
    loss_bounds,
    loss_p_value,
)
from harness.judge.statistics.paired_ratio import Rise, resampled_rise
from harness.judge.types import CheckResult, Measurement, Verdict

_CHECK: Final = "regression"


def regression(evidence: Evidence, levels: Levels) -> Outcome:
    """`regression` when worse than the baseline, `changed` when only different.

    Worse is a drift that rose, or right answers lost, by a paired one-sided test
    over the cases both runs have. Identical outputs end the question. A baseline
    that cannot be compared is `stale`: a pass would be a lie.
    """
    baseline = evidence.baseline
    if baseline is None:
        return Outcome()
    problem = _problem(evidence, baseline)
    if problem:
        return Outcome(results=(result(_CHECK, Verdict.STALE, problem),))
    if baseline.identical:
        reason = f"outputs equal those of {baseline.run} to the last bit"
        return Outcome(
            results=(passed(_CHECK, reason),), measurements=_unchanged(evidence)
        )
    findings = Findings()
    rise = _rise(evidence, baseline)
    if rise is not None:
        _judge_drift(evidence, baseline, rise, levels, findings)
    _judge_slices(evidence, baseline, levels, findings)
    _judge_behaviours(evidence, baseline, levels, findings)
    judge_metrics(evidence, baseline, levels, findings, environment)
    if not any(entry.verdict is Verdict.REGRESSION for entry in findings.results):
        findings.results.insert(0, _moved(evidence, baseline, rise, levels))
    return findings.outcome()


def environment(baseline: BaselineEvidence) -> str:
    """What differs between the two runs, for beside every difference."""
    if not baseline.differences:
        return (
            "same environment" if baseline.same_environment else "environment unknown"
        )
    shown = [
        f"{name} {before} -> {now}"
        for name, (before, now) in sorted(baseline.differences.items())
    ]
    return f"environment: {names(shown, 6)}"


def _problem(evidence: Evidence, baseline: BaselineEvidence) -> str:
    """Why the two cannot be paired; empty when they can."""
    where = f"baseline {baseline.run}"
    if baseline.problem:
        return f"{where} cannot be compared: {baseline.problem}"
    if evidence.drift is None or baseline.drift is None:
        return ""
    repeated = [c for c, n in Counter(baseline.drift.cases).items() if n > 1]
    if repeated:
        return (
            f"{where}: case ids that stand twice={len(repeated)}, but should be 0 "
            f"[{names(repeated)}]"
        )
    if not set(baseline.drift.cases) & set(evidence.drift.cases):
        return (
            f"{where}: cases in common=0, but should be {len(evidence.drift.cases)} "
            "[it was run on other cases]"
        )
    return ""


def aligned(now: Paired, before: Paired) -> tuple[Paired, Paired]:
    """The cases that both have, in today's order."""
    index = {case: position for position, case in enumerate(before.cases)}
    kept = [i for i, case in enumerate(now.cases) if case in index]
    then = [index[now.cases[i]] for i in kept]
    cases = tuple(now.cases[i] for i in kept)
    clusters = now.clusters and tuple(now.clusters[i] for i in kept)
    return (
        Paired(
            cases=cases,
            error_sq=now.error_sq[kept],
            reference_sq=now.reference_sq[kept],
            clusters=clusters,
        ),
        Paired(
            cases=cases,
            error_sq=before.error_sq[then],
            reference_sq=before.reference_sq[then],
            clusters=clusters,
        ),
    )


def _rise(evidence: Evidence, baseline: BaselineEvidence) -> Rise | None:
    if evidence.drift is None or baseline.drift is None:
        return None
    now, before = aligned(evidence.drift, baseline.drift)
    return resampled_rise(
        now.error_sq,
        before.error_sq,
        now.reference_sq,
        seed=seed_of(evidence, "regression.drift"),
        clusters=now.clusters,
    )


def noise(evidence: Evidence) -> float:
    """How much drift moves when nothing changes: the floor, or today's repetitions."""
    repeats = [
        float(entry.differences.max())
        for entry in evidence.stability
        if entry.name == "repeat" and len(entry.differences)
    ]
    return max([evidence.noise_floor, *repeats])


def _judge_slices(
    evidence: Evidence,
    baseline: BaselineEvidence,
    levels: Levels,
    findings: Findings,
) -> None:
    """The drift of every tag's cases: a rise that the average hides."""
    if evidence.drift is None or baseline.drift is None:
        return
    now, before = aligned(evidence.drift, baseline.drift)
    for tag, kept in slices(evidence.tags, now.cases).items():
        name = f"regression.drift[{tag}]"
        rise = resampled_rise(
            now.error_sq[kept],
            before.error_sq[kept],
            now.reference_sq[kept],
            seed=seed_of(evidence, name),
            clusters=now.clusters and [now.clusters[i] for i in kept],
        )
        part = Findings()
        _judge_drift(evidence, baseline, rise, levels, part, tag=tag)
        findings.measurements += part.measurements
        findings.tests.update(part.tests)
        findings.results += [r for r in part.results if r.verdict.fails]


def _judge_drift(
    evidence: Evidence,
    baseline: BaselineEvidence,
    rise: Rise,
    levels: Levels,
    findings: Findings,
    *,
    tag: str = "",
) -> None:
    where = f"[{tag}]" if tag else ""
    test = f"{_CHECK}{'/slices' if tag else ''}:drift{where}"
    level = levels.of(test)
    stated = evidence.budgets.get("regression.drift")
    limit = noise(evidence) if stated is None else stated.limit
    source = "measured noise floor" if stated is None else stated.source
    findings.tests[test] = rise.p_above(limit)
    low, high = rise.bounds(level)
    found = Measurement(
        name=f"regression.drift{where}",
        value=rise.value,
        low=low,
        high=high,
        budget=limit,
        budget_source=source,
        cases=rise.clusters,
    )
    findings.measurements.append(found)
    shared = {
        "test": "paired clustered bootstrap-t, one-sided",
        "alpha": level,
        "power": POWER,
        "detectable": rise.detectable(level, POWER),
        "cases": rise.clusters,
        "measurement": found.name,
    }
    if low > limit or math.isnan(rise.value):
        reason = (
            f"drift{where} rose by {rise.value:.3g} to {rise.now:.3g}, but "
            f"should by at most "
            f"{limit:.3g} [{low:.3g} to {high:.3g} over {rise.clusters} cases against "
            f"{baseline.run}; {environment(baseline)}]"
        )
        findings.results.append(result(_CHECK, Verdict.REGRESSION, reason, **shared))
    else:
        reason = f"drift rose by {rise.value:.3g} ({low:.3g} to {high:.3g})"
        findings.results.append(passed(_CHECK, reason, **shared))


def _judge_behaviours(
    evidence: Evidence,
    baseline: BaselineEvidence,
    levels: Levels,
    findings: Findings,
) -> None:
    for entry in evidence.behaviours:
        before = baseline.behaviours.get(entry.name)
        if before is None or entry.unjudged:
            continue
        cases = baseline.behaviour_cases.get(entry.name, entry.cases)
        if len(before) != len(cases):
            reason = (
                f"baseline {baseline.run}: answers of {entry.name}={len(before)}, but "
                f"should be {len(cases)} [one for each case]"
            )
            findings.results.append(result(_CHECK, Verdict.STALE, reason))
            continue
        was = dict(zip(cases, before, strict=True))
        kept = [i for i, case in enumerate(entry.cases) if case in was]
        table = flips(
            np.array([was[entry.cases[i]] for i in kept], bool),
            entry.target_right[kept],
        )
        test = f"{_CHECK}:{entry.name}"
        p, level = loss_p_value(table), levels.of(test)
        findings.tests[test] = p
        low, high = loss_bounds(table, level)
        name = f"regression.{entry.name}.loss"
        findings.measurements.append(
            Measurement(
                name=name,
                value=table.loss,
                low=low,
                high=high,
                budget=0.0,
                budget_source=f"baseline {baseline.run}",
                cases=table.cases,
            )
        )
        shared = {
            "test": "exact unconditional McNemar, one-sided",
            "alpha": level,
            "power": POWER,
            "detectable": detectable_loss(table, 0.0, level, POWER),
            "cases": table.cases,
            "measurement": name,
        }
        counts = f"{table.lost} lost, {table.gained} gained of {table.cases}"
        if p <= level:
            reason = (
                f"{entry.name}: loss={table.loss:.3g} against {baseline.run}, but "
                f"should be 0 [{counts}, p={p:.2g}; {environment(baseline)}]"
            )
            findings.results.append(
                result(_CHECK, Verdict.REGRESSION, reason, **shared)
            )
        else:
            reason = f"{entry.name}: no loss shown against {baseline.run} ({counts})"
            findings.results.append(passed(_CHECK, reason, **shared))


def _unchanged(evidence: Evidence) -> tuple[Measurement, ...]:
    """A rise of exactly nothing."""
    cases = 0 if evidence.drift is None else len(evidence.drift.cases)
    return (
        Measurement(
            name="regression.drift",
            value=0.0,
            low=0.0,
            high=0.0,
            budget=noise(evidence),
            budget_source="measured noise floor",
            cases=cases,
        ),
    )


def _moved(
    evidence: Evidence,
    baseline: BaselineEvidence,
    rise: Rise | None,
    levels: Levels,
) -> CheckResult:
    """`changed` when the outputs moved by more than noise; not worse is known."""
    floor = noise(evidence)
    if baseline.moved is not None:
        moved, test = baseline.moved.ratio, "relative L2 against the noise"
        beyond = moved > floor
    elif rise is not None:
        low, high = rise.bounds(levels.of(f"{_CHECK}:drift") / 2)
        moved, test = rise.value, "paired clustered bootstrap-t, two-sided"
        beyond = low > 0 or high < 0
    else:
        moved, test, beyond = math.nan, "bits", baseline.same_environment
    if not beyond:
        reason = f"outputs within noise of {baseline.run}"
        return passed(_CHECK, reason, test=test)
    reason = (
        f"outputs moved by {moved:.3g} from {baseline.run}, noise is {floor:.3g}; "
        f"not worse [{environment(baseline)}]"
    )
    return result(_CHECK, Verdict.CHANGED, reason, test=test)
