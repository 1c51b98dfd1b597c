"""The terminal: progress on standard error, results on standard output."""

from __future__ import annotations

import json
import os
import sys
import threading
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final

from harness.judge.types import Judgement, Report
from harness.reports.wording import (
    causes,
    colour,
    elsewhere,
    measured,
    needs_attention,
    next_command,
    number,
    percent,
    sentence,
    worst_operator,
)

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import TaskID
    from rich.table import Table

#: Paths between operators that an explanation lists.
_PATHS: Final = 8


def console(*, stderr: bool = False) -> Console:
    """A console that is plain where it is not a terminal, wide where it is a file."""
    from rich.console import Console

    stream = sys.stderr if stderr else sys.stdout
    plain = not stream.isatty()
    width = None if not plain else int(os.environ.get("COLUMNS", "140"))
    return Console(stderr=stderr, width=width, highlight=False, soft_wrap=False)


class Progress:
    """Bars on a terminal; elsewhere one line a finished target."""

    def __init__(self) -> None:
        self._console = console(stderr=True)
        self._lock = threading.Lock()
        self._bars: Any = None
        self._whole: TaskID | None = None
        self._tasks: dict[str, TaskID] = {}

    def on_start(self, total: int, title: str) -> None:
        """Show the bar of the whole run."""
        if not self._console.is_terminal:
            return
        from rich.progress import (
            BarColumn,
            MofNCompleteColumn,
            TextColumn,
            TimeElapsedColumn,
        )
        from rich.progress import Progress as Bars

        self._bars = Bars(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            console=self._console,
            transient=True,
        )
        self._bars.start()
        self._whole = self._bars.add_task(title, total=total)

    def on_target(self, name: str) -> None:
        """Show the target's own bar."""
        if self._bars is not None:
            with self._lock:
                self._tasks[name] = self._bars.add_task(name, total=None)

    def on_progress(self, name: str, done: int, total: int) -> None:
        """Move the target's bar."""
        if self._bars is not None and name in self._tasks:
            self._bars.update(self._tasks[name], completed=done, total=total)

    def on_done(self, judgement: Judgement) -> None:
        """Count the target; take its bar away."""
        if self._bars is None:
            self._console.print(f"{judgement.name}: {judgement.verdict}", markup=False)
            return
        with self._lock:
            task = self._tasks.pop(judgement.name, None)
            if task is not None:
                self._bars.remove_task(task)
            self._bars.advance(self._whole)

    def on_step(self) -> None:
        """Move the bar of the whole."""
        if self._bars is not None:
            self._bars.advance(self._whole)

    def on_message(self, text: str) -> None:
        """One line above the bars."""
        target = self._bars.console if self._bars is not None else self._console
        target.print(text, markup=False, soft_wrap=True)

    def on_finish(self) -> None:
        """Take the bars away."""
        if self._bars is not None:
            self._bars.stop()
            self._bars = None


def print_json(value: Mapping[str, Any]) -> None:
    """One object, and nothing else, on standard output."""
    from harness.files import finite

    sys.stdout.write(json.dumps(finite(dict(value)), allow_nan=False) + "\n")


def print_report(report: Report) -> None:
    """The matrix, what is wrong, and what to type next."""
    out = console()
    out.print(_matrix(report))
    trouble: dict[str, list[Judgement]] = {}
    for target in report.targets:
        if needs_attention(target):
            trouble.setdefault(target.reason, []).append(target)
    for targets in trouble.values():
        _print_trouble(out, targets)
    for suite in dict.fromkeys(t.suite for ts in trouble.values() for t in ts):
        _print_elsewhere(out, report, suite)
    out.print(sentence(report), style="bold", markup=False)
    out.print(f"folder: {report.folder}   {report.seconds:.1f} s", markup=False)
    out.print(f"next: {next_command(report)}", markup=False, soft_wrap=True)


def _matrix(report: Report) -> Table:
    from rich import box
    from rich.table import Table
    from rich.text import Text

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for name in ("suite", "backend", "scheme", "verdict"):
        table.add_column(name, no_wrap=True)
    for name in ("drift", "budget", "slack", "unexplained", "limit", "time"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("ran", no_wrap=True)
    last = ""
    for target in report.targets:
        drift, unexplained = measured(target, "drift"), measured(target, "unexplained")
        table.add_row(
            target.suite if target.suite != last else "",
            target.backend,
            target.scheme,
            Text(str(target.verdict), style=colour(target.verdict)),
            number(drift.value if drift else None),
            number(drift.budget if drift else None),
            percent(drift.slack if drift else None),
            number(unexplained.value if unexplained else None),
            number(unexplained.budget if unexplained else None),
            f"{sum(target.timings.values()):.1f}s" if target.timings else "-",
            target.execution.partition(":")[0],
        )
        last = target.suite
    return table


def _print_trouble(out: Console, targets: Sequence[Judgement]) -> None:
    """Targets with one and the same reason: said once."""
    target = targets[0]
    others = f" and {len(targets) - 1} more" if len(targets) > 1 else ""
    heading = f"{target.name}{others}: {target.verdict}"
    out.print(heading, style=colour(target.verdict), markup=False)
    out.print(f"  {target.reason}", markup=False, soft_wrap=True)
    worst = worst_operator(target)
    if worst is not None:
        what = "operator" if worst in target.operators else "path"
        out.print(
            f"  worst {what}: {worst.name}: unexplained {number(worst.unexplained)}, "
            f"limit {number(worst.limit)}",
            markup=False,
            soft_wrap=True,
        )
    for line in causes(target)[:1]:
        out.print(f"  cause: {line}", markup=False, soft_wrap=True)


def _print_elsewhere(out: Console, report: Report, suite: str) -> None:
    """Beside what failed: what else is not as it was for the golden."""
    changed = elsewhere(report, suite)
    if changed:
        line = f"{suite}: since its golden was recorded: {changed}"
        out.print(line, markup=False, soft_wrap=True)


def print_explanation(report: Report, *, everything: bool) -> None:
    """Evidence of the targets that do not pass, or of all that were asked for."""
    out = console()
    chosen = [t for t in report.targets if everything or needs_attention(t)]
    if not chosen:
        out.print(f"{sentence(report)} Nothing to explain.", markup=False)
    for target in chosen:
        _print_target(out, target)
    for suite in dict.fromkeys(target.suite for target in chosen):
        _print_elsewhere(out, report, suite)


def print_bisection(found: Mapping[str, Any]) -> None:
    """Every part that was run alone, and the smallest one that is wrong."""
    out = console()
    for step in found["steps"]:
        out.print(
            f"{step['operators']} operators quantized: {number(step['off'])} off the "
            f"oracle, jitter alone makes {number(step['noise'])}",
            markup=False,
        )
    names = ", ".join(found["operators"])
    out.print(
        f"wrong by itself: {names} ({len(found['steps'])} parts run)",
        style="bold",
        markup=False,
        soft_wrap=True,
    )


def _print_target(out: Console, target: Judgement) -> None:
    from rich import box
    from rich.table import Table

    out.print(f"{target.name}: {target.verdict}", style="bold", markup=False)
    out.print(target.reason, markup=False, soft_wrap=True)
    if target.execution:
        out.print(f"ran {target.execution}", markup=False, soft_wrap=True)
    checks = Table("check", "verdict", "test", "reason", box=box.SIMPLE_HEAD)
    for check in target.checks:
        checks.add_row(check.check, str(check.verdict), check.test, check.reason)
    out.print(checks)
    table = Table("measurement", box=box.SIMPLE_HEAD)
    for name in ("value", "low", "high", "limit", "cases"):
        table.add_column(name, justify="right")
    table.add_column("limit from")
    for name, entry in target.measurements.items():
        table.add_row(
            name,
            number(entry.value),
            number(entry.low),
            number(entry.high),
            number(entry.budget),
            str(entry.cases or "-"),
            entry.budget_source,
        )
    out.print(table)
    if target.operators:
        _print_operators(out, target)
    for found, line in zip(target.diagnosis, causes(target), strict=True):
        out.print(f"cause: {line}", style="bold", markup=False, soft_wrap=True)
        for fact in found.get("facts", ()):
            out.print(f"  seen: {fact}", markup=False, soft_wrap=True)
        for other in found.get("others", ())[:3]:
            out.print(
                f"  tried: {other['defect']} ({other['detail']}): unexplained "
                f"{number(other['unexplained'])}",
                markup=False,
                soft_wrap=True,
            )


def _print_operators(out: Console, target: Judgement) -> None:
    """Operators in the order they ran, the guilty ones marked."""
    from rich import box
    from rich.table import Table

    table = Table("", "operator", box=box.SIMPLE_HEAD)
    for name in ("unexplained", "limit", "format's noise"):
        table.add_column(name, justify="right")
    for entry in target.operators:
        table.add_row(
            "!" if entry.guilty else "",
            entry.name,
            number(entry.unexplained),
            number(entry.limit),
            number(entry.quantization_noise),
            style="red" if entry.guilty else None,
        )
    out.print(table)
    guilty = [entry.name for entry in target.operators if entry.guilty]
    if guilty:
        out.print(f"first guilty operator: {guilty[0]}", style="bold red", markup=False)
    for path in [entry for entry in target.paths if entry.guilty][:_PATHS]:
        out.print(
            f"between operators: {path.name}: unexplained {number(path.unexplained)}, "
            f"limit {number(path.limit)}",
            style="red",
            markup=False,
            soft_wrap=True,
        )
