"""The Markdown summary of a gate: the verdict first, then only what needs reading."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Final

from harness.judge.types import Judgement, Report, Verdict
from harness.reports.wording import (
    elsewhere,
    measured,
    needs_attention,
    number,
    percent,
    sentence,
    worst_operator,
)

#: A step summary of more than 1 MiB is dropped without a word.
_ROWS: Final = 50


def render(
    report: Report, differences: Mapping[str, tuple[str, str]] | None = None
) -> str:
    """The whole text."""
    mark = {0: "✅", 1: "❌", 2: "⚠️", 3: "⚠️"}[report.exit_code]
    lines = [f"## {mark} quantharness: {sentence(report)}", ""]
    if report.baseline:
        lines += [f"Compared with baseline {_code(report.baseline)}.", ""]
    trouble = [target for target in report.targets if needs_attention(target)]
    if trouble:
        lines += [
            "| target | verdict | drift | budget | unexplained | limit | operator |",
            "| --- | --- | ---: | ---: | ---: | ---: | --- |",
            *(_row(target) for target in trouble[:_ROWS]),
        ]
        if len(trouble) > _ROWS:
            lines.append(f"\nand {len(trouble) - _ROWS} more in the artifact")
        lines += ["", *(_reason(target) for target in trouble[:_ROWS]), ""]
        lines += _elsewhere(report, trouble)
    passed = sum(target.verdict is Verdict.PASS for target in report.targets)
    lines += [f"{passed} of {len(report.targets)} targets pass.", ""]
    if differences:
        lines += ["**The environment differs from the baseline's:**", ""]
        lines += ["| what | baseline | now |", "| --- | --- | --- |"]
        lines += [
            f"| {_cell(name)} | {_cell(old) or '-'} | {_cell(new) or '-'} |"
            for name, (old, new) in differences.items()
        ]
        lines.append("")
    lines.append(
        f"Run {_code(report.run)}, {report.seconds:.0f} s, {_code(report.folder)}."
    )
    return "\n".join(lines) + "\n"


def _elsewhere(report: Report, trouble: Sequence[Judgement]) -> list[str]:
    """What is not as it was for the goldens of the suites in trouble."""
    lines = []
    for suite in dict.fromkeys(target.suite for target in trouble):
        changed = elsewhere(report, suite)
        if changed:
            lines += [
                f"Since the golden of {_code(suite)} was recorded: {_cell(changed)}",
                "",
            ]
    return lines


def _row(target: Judgement) -> str:
    drift, unexplained = measured(target, "drift"), measured(target, "unexplained")
    worst = worst_operator(target)
    cells = [
        _code(target.name),
        f"**{target.verdict}**",
        number(drift.value if drift else None),
        f"{number(drift.budget)} ({percent(drift.slack)} left)" if drift else "-",
        number(unexplained.value if unexplained else None),
        number(unexplained.budget if unexplained else None),
        _code(worst.name) if worst else "-",
    ]
    return f"| {' | '.join(cells)} |"


def _reason(target: Judgement) -> str:
    return f"- {_code(target.name)}: {_cell(target.reason)}"


def _code(text: str) -> str:
    """Text as it is; of a table only `|` needs care, and a backtick ends the code."""
    plain = re.sub(r"\s+", " ", str(text)).replace("`", "'")
    return f"`{plain.replace('|', '¦')}`"


def _cell(text: str) -> str:
    """Text that can neither end a table cell nor become markup."""
    return re.sub(r"([|`<>\[\]*_\\])", r"\\\1", re.sub(r"\s+", " ", str(text))).strip()
