"""Verdicts: statistics, budgets and the checks that decide."""

from __future__ import annotations

from harness.judge.decide import judge, judge_run
from harness.judge.evidence import Evidence
from harness.judge.types import Judgement, Measurement, Report, Verdict

__all__ = [
    "Evidence",
    "Judgement",
    "Measurement",
    "Report",
    "Verdict",
    "judge",
    "judge_run",
]
