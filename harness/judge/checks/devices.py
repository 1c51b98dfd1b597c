"""Hardware that is never twice the same: distributions instead of numbers.

One device, or one run of it, says little; a set of them has means and tails. Held
against what the device declares (`defect`), against the budgets (`drift`,
`behaviour`), and against the sets that were drawn in the baseline (`regression`). These
take the place of the checks that read a single run's outputs.
"""

from __future__ import annotations

import math
from typing import Final

import numpy as np

from harness.judge.budgets import published_margin, theory_drift
from harness.judge.checks.devices_baseline import against_baseline
from harness.judge.evidence import Budget, DeviceEvidence, DeviceSeries, Evidence
from harness.judge.levels import POWER, Levels
from harness.judge.outcome import Findings, Outcome, names, passed, result
from harness.judge.statistics.draws import (
    FloatArray,
    channel_p_value,
    interval,
    mean_above,
    mean_apart,
)
from harness.judge.types import CheckResult, Measurement, Verdict

#: How far a declared mean square, and a declared mean in units of the outputs, may be
#: wrong: what `backends.protocol` asks of a session.
SQUARE: Final = 1.1
MEAN: Final = 0.01


def devices(evidence: Evidence, levels: Levels) -> Outcome:
    """`defect`, `drift`, `regression` or `behaviour` of a set of devices."""
    device = evidence.device
    if device is None:
        return Outcome()
    findings = Findings()
    if device.declares:
        _declared(device, levels, findings)
    for series in _of(device, "drift"):
        _drift(evidence, device, series, levels, findings)
    against_baseline(evidence, device, levels, findings)
    for series in _of(device, "wrong"):
        _answers(evidence, device, series, levels, findings)
    findings.results += _unmatched(evidence, findings)
    return findings.outcome()


def age_text(age: float) -> str:
    """`30 d`, `1 h`, `90 s`."""
    for unit, seconds in (("d", 86400.0), ("h", 3600.0)):
        if age >= seconds and age % seconds == 0:
            return f"{age / seconds:g} {unit}"
    return f"{age:g} s"


def logs(values: FloatArray) -> FloatArray:
    """Natural logarithms; of 0 that of a very small number."""
    return np.log(np.maximum(values, 1e-30))


def _of(device: DeviceEvidence, *kinds: str) -> list[DeviceSeries]:
    return [series for series in device.series if series.kind in kinds]


def drift_bounds(series: DeviceSeries, level: float) -> tuple[float, float, float]:
    """Geometric mean of a drift over devices, and bounds wrong with chance `level`."""
    values = logs(series.values)
    low, high = interval(values, level)
    return math.exp(float(values.mean())), math.exp(low), math.exp(min(high, 700.0))


def _declared(device: DeviceEvidence, levels: Levels, findings: Findings) -> None:
    """Means and tails of every operator's error against what was declared."""
    found: list[tuple[str, float, str]] = []
    for series in _of(device, "error", "gain", "offset"):
        value = float(series.values.mean())
        where = f"operator {series.of}, {age_text(series.age)} after programming"
        if series.kind == "error":
            p = mean_above(logs(series.values), math.log(SQUARE))
            said = f"squared error over the declared={value:.3g}"
            limit = f"at most {SQUARE:g}"
        else:
            p = mean_apart(series.values, MEAN)
            said = f"{series.kind} beyond the declared={value:.3g}"
            limit = f"within {MEAN:g} of 0"
        test = f"explained:{series.kind} {series.of} {age_text(series.age)}"
        reason = f"{said}, but should be {limit} [mean of {len(series.values)} devices"
        found.append((test, p, f"{reason}; {where}]"))
    for tail in device.tails:
        p = channel_p_value(tail.ratio / SQUARE, tail.draws, tail.among)
        age = age_text(tail.age)
        test = f"explained:channels of {tail.operator} {age}"
        reason = (
            f"squared error of channel {tail.channel} over the declared="
            f"{tail.ratio:.3g}, but should be near 1 [the least of {tail.draws} "
            f"devices, the largest of {tail.among} channels; operator "
            f"{tail.operator}, {age} after programming]"
        )
        found.append((test, p, reason))
    findings.tests.update({test: p for test, p, _ in found})
    bad = [entry for entry in found if entry[1] <= levels.of(entry[0])]
    _decide_declared(device, found, bad, levels, findings)


def _decide_declared(
    device: DeviceEvidence,
    found: list[tuple[str, float, str]],
    bad: list[tuple[str, float, str]],
    levels: Levels,
    findings: Findings,
) -> None:
    """The least likely speaks for all."""
    if not found:
        return
    test, p, reason = min(bad or found, key=lambda entry: entry[1])
    shared = {
        "test": "Student's t over devices, Markov's bound on channels",
        "alpha": levels.of(test),
        "cases": len(device.seeds),
    }
    if bad:
        reason = f"{reason}; p={p:.2g}, {len(bad)} of {len(found)} tests"
        findings.results.append(result("explained", Verdict.DEFECT, reason, **shared))
        return
    reason = (
        f"means and tails of {len(found)} errors of {len(device.seeds)} devices are as "
        f"declared (smallest p={p:.2g})"
    )
    findings.results.append(passed("explained", reason, **shared))


def _drift(
    evidence: Evidence,
    device: DeviceEvidence,
    series: DeviceSeries,
    levels: Levels,
    findings: Findings,
) -> None:
    """The geometric mean of the devices' drift against its budget."""
    name = _named("drift", series, device)
    budget = evidence.budgets.get(name) or evidence.budgets.get("drift")
    if budget is None and name == "drift":
        budget = theory_drift(evidence)
    test = f"distance:{name}"
    level = levels.of(test)
    value, low, high = drift_bounds(series, level)
    found = Measurement(
        name=name,
        value=value,
        low=low,
        high=high,
        budget=None if budget is None else budget.limit,
        budget_source="" if budget is None else budget.source,
        cases=len(series.values),
    )
    findings.measurements.append(found)
    if budget is not None:
        limit = math.log(max(budget.limit, 1e-30))
        findings.tests[test] = mean_above(logs(series.values), limit)
        findings.results.append(_within(found, budget, device, level))


def _named(what: str, series: DeviceSeries, device: DeviceEvidence) -> str:
    """What is measured of the youngest devices has no age in its name."""
    youngest = min(entry.age for entry in _of(device, series.kind))
    return what if series.age == youngest else f"{what}[{age_text(series.age)}]"


def _within(
    found: Measurement, budget: Budget, device: DeviceEvidence, level: float
) -> CheckResult:
    """Beyond with the whole interval, not resolved, or within."""
    # What the mean must be for its interval to lie beyond: as much as it is wide.
    width = math.sqrt(found.high / found.low) if found.low > 0 else math.inf
    detectable = budget.limit * (width**2 - 1)
    shared = {
        "test": "Student's t of the logarithm over devices, one-sided",
        "alpha": level,
        "power": POWER,
        "detectable": detectable,
        "cases": found.cases,
        "measurement": found.name,
    }
    place = (
        f"{found.low:.3g} to {found.high:.3g} over {found.cases} devices; limit from "
        f"{budget.source}"
    )
    if not found.low <= budget.limit:
        reason = f"{found.name}={found.value:.3g}, but should be at most "
        reason += f"{budget.limit:.3g} [{place}]"
        return result("distance", Verdict.DRIFT, reason, **shared)
    if found.high > budget.limit and detectable > (budget.margin or budget.limit):
        reason = (
            f"{found.name}={found.value:.3g} is not resolved, but should be at most "
            f"{budget.limit:.3g} [{place}; {device.wanted} devices would do]"
        )
        return result("distance", Verdict.INCONCLUSIVE, reason, **shared)
    reason = f"{found.name}={found.value:.3g} ({place})"
    return passed("distance", reason, **shared)


def _answers(
    evidence: Evidence,
    device: DeviceEvidence,
    series: DeviceSeries,
    levels: Levels,
    findings: Findings,
) -> None:
    """Right answers lost on average over devices, against the margin."""
    stated = evidence.budgets.get(f"behaviour.{series.of}.loss")
    entry = next((e for e in evidence.behaviours if e.name == series.of), None)
    if stated is not None:
        margin, source = stated.limit, stated.source
    elif entry is not None and entry.margin is not None:
        margin, source = entry.margin, "suite.toml"
    else:
        margin, source = published_margin(evidence)
    loss = series.values - device.reference_wrong.get(series.of, 0.0)
    where = _named(f"{series.of}.loss", series, device)
    test = f"behaviour:{where}"
    p, level = mean_above(loss, margin), levels.of(test)
    findings.tests[test] = p
    low, high = interval(loss, level)
    found = Measurement(
        name=f"behaviour.{where}",
        value=float(loss.mean()),
        low=low,
        high=high,
        budget=margin,
        budget_source=source,
        cases=len(loss),
    )
    findings.measurements.append(found)
    shared = {
        "test": "Student's t over devices, one-sided",
        "alpha": level,
        "cases": len(loss),
        "measurement": found.name,
    }
    text = f"{where}={found.value:.3g}"
    place = f"{low:.3g} to {high:.3g} over {len(loss)} devices on {device.cases} cases"
    if p <= level:
        reason = f"{text}, but should be at most {margin:.3g} [{place}; {source}]"
        findings.results.append(
            result("behaviour", Verdict.BEHAVIOUR, reason, **shared)
        )
    else:
        findings.results.append(passed("behaviour", f"{text} ({place})", **shared))


def _unmatched(evidence: Evidence, findings: Findings) -> list[CheckResult]:
    """A budget that names nothing measured of a device is not kept."""
    measured = {entry.name for entry in findings.measurements} | {"unexplained"}
    return [
        result(
            "distance",
            Verdict.VACUOUS,
            f"budget {name!r} names nothing that is measured of a set of devices, but "
            f"should be one of {names(sorted(measured), 12)} [{budget.source}]",
        )
        for name, budget in evidence.budgets.items()
        if name not in measured and not name.startswith(("cost.", "unexplained."))
    ]
