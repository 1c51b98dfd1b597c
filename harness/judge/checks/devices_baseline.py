"""A set of devices against the set that was drawn in the baseline."""

from __future__ import annotations

import math
from typing import Final

import numpy as np

from harness.judge.evidence import DeviceEvidence, DeviceSeries, Evidence
from harness.judge.levels import Levels
from harness.judge.outcome import Findings, passed, result
from harness.judge.statistics.draws import (
    FloatArray,
    mean_moved,
    mean_rose,
    rise,
    tail_rose,
)
from harness.judge.types import Measurement, Verdict

_CHECK: Final = "regression"
#: Of these the logarithm is roughly normal.
_LOGARITHMIC: Final = frozenset({"drift", "error", "channel"})
#: These are worse in either direction.
_TWO_SIDED: Final = frozenset({"gain", "offset"})


def against_baseline(
    evidence: Evidence, device: DeviceEvidence, levels: Levels, findings: Findings
) -> None:
    """`regression` when a mean or a tail is worse than devices differ by.

    The two sets share nothing: the devices are others, so nothing is paired.
    """
    baseline = evidence.baseline
    if baseline is None:
        return
    where = f"baseline {baseline.run}"
    problem = baseline.problem
    if not problem and baseline.device is None:
        problem = "it has no draws of the device"
    if problem:
        reason = f"{where} cannot be compared: {problem}"
        findings.results.append(result(_CHECK, Verdict.STALE, reason))
        return
    assert baseline.device is not None  # sanity check
    before = {(s.kind, s.of, s.age): s for s in baseline.device.series}
    missing = [s for s in device.series if (s.kind, s.of, s.age) not in before]
    if missing:
        reason = (
            f"{where}: numbers that it lacks={len(missing)} of {len(device.series)}, "
            f"but should be 0 [{_name(missing[0])}; it looked at other operators or "
            "ages]"
        )
        findings.results.append(result(_CHECK, Verdict.STALE, reason))
        return
    worse = []
    for series in device.series:
        worse += _compare(
            series, before[series.kind, series.of, series.age], levels, findings
        )
    if worse:
        p, reason = min(worse)
        reason = f"{reason} [against {baseline.run}, p={p:.2g}; {len(worse)} tests]"
        verdict = Verdict.REGRESSION
    else:
        reason = (
            f"{len(device.series)} means and tails of {len(device.seeds)} devices are "
            f"no worse than those of {len(baseline.device.seeds)} in {baseline.run}"
        )
        verdict = Verdict.PASS
    shared = {
        "test": "Welch's t over devices, and exceedances",
        "cases": len(device.seeds),
    }
    if verdict is Verdict.PASS:
        findings.results.append(passed(_CHECK, reason, **shared))
    else:
        findings.results.append(result(_CHECK, verdict, reason, **shared))


def _compare(
    series: DeviceSeries, before: DeviceSeries, levels: Levels, findings: Findings
) -> list[tuple[float, str]]:
    """The tests that fail: p and reason."""
    now, then = _scaled(series), _scaled(before)
    name = _name(series)
    two = series.kind in _TWO_SIDED
    tests = {"mean": mean_moved(now, then) if two else mean_rose(now, then)}
    tests["tail"] = tail_rose(abs(now), abs(then)) if two else tail_rose(now, then)
    found = []
    for what, p in tests.items():
        test = f"{_CHECK}:{what} of {name}"
        findings.tests[test] = p
        if p <= levels.of(test):
            values = f"{_middle(series):.3g}, {_middle(before):.3g} before"
            if what == "tail":
                values = f"{series.values.max():.3g} at most, "
                values += f"{before.values.max():.3g} before"
            found.append((p, f"{what} of {name}={values}"))
    if series.kind == "drift":
        level = levels.of(f"{_CHECK}:mean of {name}")
        value, low, high = rise(now, then, level)
        findings.measurements.append(
            Measurement(
                name=f"{_CHECK}.{name}",
                value=math.exp(value),
                low=math.exp(low),
                high=math.exp(min(high, 700.0)),
                budget=1.0,
                budget_source="baseline",
                unit="x",
                cases=len(now),
            )
        )
    return found


def _scaled(series: DeviceSeries) -> FloatArray:
    if series.kind not in _LOGARITHMIC:
        return series.values
    return np.log(np.maximum(series.values, 1e-30))


def _middle(series: DeviceSeries) -> float:
    mean = float(_scaled(series).mean())
    return math.exp(mean) if series.kind in _LOGARITHMIC else mean


def _name(series: DeviceSeries) -> str:
    return f"{series.kind}{f' {series.of}' if series.of else ''} at {series.age:g} s"
