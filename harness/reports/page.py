"""The HTML page: one self-contained file that opens offline."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from markupsafe import Markup

from harness.judge.types import Judgement, Report
from harness.reports import svg
from harness.reports.replies import ReplyRow, read_replies
from harness.reports.wording import (
    causes,
    colour,
    elsewhere,
    measured,
    needs_attention,
    number,
    percent,
    sentence,
    worst_operator,
)


@dataclass(frozen=True)
class _Row:
    """One target with its pictures and its past."""

    target: Judgement
    network: Markup
    spark: Markup
    #: (run, verdict) of the run before, when it was another verdict.
    changed: str
    anchor: str
    #: What a language model wrote, beside the reference.
    replies: tuple[ReplyRow, ...] = ()


@dataclass(frozen=True)
class _Past:
    """Values of every target over past runs, collected once."""

    drift: dict[str, list[float]] = field(default_factory=dict)
    verdicts: dict[str, list[str]] = field(default_factory=dict)


def render(report: Report, past: Sequence[Report] = ()) -> str:
    """The page of a run; `past` are the runs of a history, oldest first."""
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader("harness.reports", "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.globals.update(
        number=number,
        percent=percent,
        colour=colour,
        causes=causes,
        elsewhere=elsewhere,
        heat=svg.heat,
        measured=measured,
        worst_operator=worst_operator,
        needs_attention=needs_attention,
    )
    before = [entry for entry in past if entry.run != report.run]
    collected = _collect(before)
    folder = Path(report.folder)
    rows = [_row(i, t, collected, folder) for i, t in enumerate(report.targets)]
    return environment.get_template("page.html.j2").render(
        report=report,
        rows=rows,
        sentence=sentence(report),
        changes=[row for row in rows if row.changed],
        nights=len(before),
        environment_changes=_environment_changes(before, report),
    )


def _collect(past: Sequence[Report]) -> _Past:
    found = _Past()
    for report in past:
        for target in report.targets:
            drift = measured(target, "drift")
            if drift is not None:
                found.drift.setdefault(target.name, []).append(drift.value)
            found.verdicts.setdefault(target.name, []).append(str(target.verdict))
    return found


def _row(index: int, target: Judgement, past: _Past, folder: Path) -> _Row:
    drift = measured(target, "drift")
    values = [*past.drift.get(target.name, []), *([drift.value] if drift else [])]
    verdicts = past.verdicts.get(target.name, [])
    moved = bool(verdicts) and verdicts[-1] != str(target.verdict)
    return _Row(
        target=target,
        network=svg.operators(target.operators),
        spark=svg.sparkline(values),
        changed=f"{verdicts[-1]} → {target.verdict}" if moved else "",
        anchor=f"t{index}",
        replies=read_replies(folder, target),
    )


def _environment_changes(
    past: Sequence[Report], report: Report
) -> list[tuple[str, str, str]]:
    """What differs from the run before: name, then, now."""
    if not past:
        return []
    then, now = past[-1].environment, report.environment
    return [
        (name, str(then.get(name, "")), str(now.get(name, "")))
        for name in sorted({*then, *now})
        if str(then.get(name, "")) != str(now.get(name, ""))
    ]
