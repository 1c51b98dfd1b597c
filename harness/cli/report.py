"""`quantharness report`."""

from __future__ import annotations

import argparse
from pathlib import Path

from harness.cli.options import add_json
from harness.errors import UsageError

EXAMPLE = "quantharness report --history reports/history --out drift.html"


def configure(parser: argparse.ArgumentParser) -> None:
    """Its options."""
    parser.add_argument("run", nargs="?", metavar="RUN", help="a run's folder")
    parser.add_argument(
        "--history",
        metavar="DIR",
        help="a history; its newest run is the page's subject",
    )
    parser.add_argument("--out", metavar="FILE", help="the page (default: report.html)")
    add_json(parser)


def execute(options: argparse.Namespace) -> int:
    """Write the page."""
    from harness.execution.run_folder import read_report
    from harness.history import load
    from harness.reports.artifacts import write_page
    from harness.reports.terminal import print_json

    past = load(Path(options.history)) if options.history else None
    if options.run:
        report = read_report(Path(options.run))
    elif past is not None and past.reports:
        report = past.reports[-1]
    else:
        raise UsageError("give a RUN folder, or --history DIR with at least one run")
    page = write_page(
        report, past.reports if past else (), Path(options.out or "report.html")
    )
    problems = list(past.problems) if past else []
    if options.json:
        print_json({"schema": 1, "page": str(page), "problems": problems})
    else:
        for problem in problems:
            print(f"history: {problem}")
        print(page)
    return 0
