"""The same thing done twice must be the same, as far as the backend declares."""

from __future__ import annotations

from typing import Final

import numpy as np

from harness.judge.evidence import Evidence, StabilityEvidence
from harness.judge.levels import Levels
from harness.judge.outcome import Outcome, passed, result
from harness.judge.types import CheckResult, Measurement, Verdict

_CHECK: Final = "stability"


def stability(evidence: Evidence, levels: Levels) -> Outcome:  # noqa: ARG001
    """`unstable` when any repetition differs by more than was declared.

    The limit is a bound, not an estimate, so nothing is tested: every case counts.
    A difference that is NaN is beyond every limit.
    """
    measurements, results = [], []
    for repeat in evidence.stability:
        if not len(repeat.differences):
            continue
        results.append(_judge(repeat))
        measurements.append(_measure(repeat))
    failed = [entry for entry in results if entry.verdict is not Verdict.PASS]
    return Outcome(
        results=tuple(failed or results[:1]), measurements=tuple(measurements)
    )


def _worst(repeat: StabilityEvidence) -> int:
    """Index of the largest difference; NaN is the largest."""
    return int(np.argmax(np.nan_to_num(repeat.differences, nan=np.inf)))


def _judge(repeat: StabilityEvidence) -> CheckResult:
    index = _worst(repeat)
    worst = float(repeat.differences[index])
    name = f"stability.{repeat.name}"
    count = len(repeat.cases) or len(repeat.differences)
    if worst <= repeat.limit:
        return passed(
            _CHECK,
            f"{repeat.name}: difference={worst:.3g}, at most {repeat.limit:.3g}",
            cases=count,
            measurement=name,
        )
    named = len(repeat.cases) == len(repeat.differences)
    where = f"case {repeat.cases[index]}; " if named else ""
    return result(
        _CHECK,
        Verdict.UNSTABLE,
        f"{repeat.name}: relative difference={worst:.3g}, but should be at most "
        f"{repeat.limit:.3g} [{where}limit: {repeat.limit_source}]",
        test="every case against the bound",
        cases=count,
        measurement=name,
    )


def _measure(repeat: StabilityEvidence) -> Measurement:
    worst = float(repeat.differences[_worst(repeat)])
    return Measurement(
        name=f"stability.{repeat.name}",
        value=worst,
        low=worst,
        high=worst,
        budget=repeat.limit,
        budget_source=repeat.limit_source,
        cases=len(repeat.cases) or len(repeat.differences),
    )
