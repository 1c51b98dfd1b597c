"""The same words and numbers on every surface."""

from __future__ import annotations

import math
from collections import Counter
from typing import Final

from harness.judge.types import Judgement, Measurement, OperatorResult, Report, Verdict

#: Verdict -> a colour that terminal and page share.
COLOURS: Final = {
    Verdict.PASS: "green",
    Verdict.CHANGED: "cyan",
    Verdict.UNSUPPORTED: "bright_black",
    Verdict.INCONCLUSIVE: "yellow",
    Verdict.STALE: "yellow",
    Verdict.VACUOUS: "magenta",
    Verdict.ERROR: "magenta",
}


def colour(verdict: Verdict) -> str:
    """Green, grey, yellow or red."""
    return COLOURS.get(verdict, "red")


def number(value: float | None) -> str:
    """Three significant digits; "-" for what was not measured."""
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return "-"
    if math.isinf(value):
        return "inf"
    return f"{value:.3g}"


def percent(value: float | None) -> str:
    """A share as a whole percentage; "-" for none."""
    return "-" if value is None or not math.isfinite(value) else f"{value:.0%}"


def measured(judgement: Judgement, name: str) -> Measurement | None:
    """A measurement of a target, if it was taken."""
    return judgement.measurements.get(name)


def worst_operator(judgement: Judgement) -> OperatorResult | None:
    """The operator furthest beyond (or nearest to) its limit.

    Where every operator is right and what lies between two is not, the first such path.
    """
    if not any(entry.guilty for entry in judgement.operators):
        for path in judgement.paths:
            if path.guilty:
                return path
    found = [entry for entry in judgement.operators if entry.limit > 0]
    return max(found, key=lambda entry: entry.unexplained / entry.limit, default=None)


def causes(judgement: Judgement) -> list[str]:
    """What was found of the cause, a line a diagnosed operator."""
    return [
        f"{entry.get('sentence') or entry['operator'] + ': ' + entry['defect']} "
        f"({entry['confidence']:.0%} sure)"
        if entry["confidence"] > 0
        else str(entry.get("sentence") or f"{entry['operator']}: {entry['defect']}")
        for entry in judgement.diagnosis
    ]


def needs_attention(judgement: Judgement) -> bool:
    """Everything that is not simply fine."""
    return judgement.verdict not in (Verdict.PASS, Verdict.UNSUPPORTED) or (
        judgement.exit_code != 0
    )


def elsewhere(report: Report, suite: str) -> str:
    """What differs from where a suite's golden was recorded; empty for nothing."""
    return "; ".join(
        f"{name} {there or '-'} -> {here or '-'}"
        for name, (there, here) in report.since_golden.get(suite, {}).items()
    )


_OUTCOMES: Final = {
    0: "The run passes",
    1: "The run fails",
    2: "Nothing was compared, so nothing passes",
    3: "The run cannot be judged",
}


def sentence(report: Report) -> str:
    """The whole run in one sentence."""
    counts = Counter(str(target.verdict) for target in report.targets)
    parts = [f"{count} {verdict}" for verdict, count in counts.most_common()]
    count = len(report.targets)
    noun = "target" if count == 1 else "targets"
    return f"{count} {noun}: {', '.join(parts)}. {_OUTCOMES[report.exit_code]}."


def next_command(report: Report) -> str:
    """What to type next."""
    if report.compared_nothing:
        return "quantharness doctor"
    for target in report.targets:
        if needs_attention(target):
            return f"quantharness explain {report.folder} {target.name}"
    return f"quantharness gate PATH --baseline {report.folder}"
