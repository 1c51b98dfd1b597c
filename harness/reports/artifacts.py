"""The files that a run leaves for people and machines."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from harness.files import write_text
from harness.judge.types import Report
from harness.reports import junit, markdown


def write_artifacts(
    report: Report,
    folder: Path,
    *,
    differences: Mapping[str, tuple[str, str]] | None = None,
) -> None:
    """`summary.md`, `junit.xml` and `report.html` beside `run.json`."""
    write_text(folder / "summary.md", markdown.render(report, differences))
    write_text(folder / "junit.xml", junit.render(report))
    write_page(report, (), folder / "report.html")


def write_page(report: Report, past: Sequence[Report], path: Path) -> Path:
    """The HTML page of a run, with the nights before it."""
    from harness.reports.page import render

    write_text(path, render(report, past))
    return path
