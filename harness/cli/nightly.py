"""`quantharness nightly`."""

from __future__ import annotations

import argparse
from pathlib import Path

from harness.cli.options import add_run
from harness.cli.run import run_and_show

EXAMPLE = "quantharness nightly suites --history reports/history"


def configure(parser: argparse.ArgumentParser) -> None:
    """Its options."""
    add_run(parser)
    parser.add_argument(
        "--history",
        default="reports/history",
        metavar="DIR",
        help="folder of the history, one file a run (default: reports/history)",
    )


def execute(options: argparse.Namespace) -> int:
    """Run, append to the history, write the page."""
    from harness.history import append, load
    from harness.reports.artifacts import write_page

    folder = Path(options.history)
    report = run_and_show(options, history=folder)
    append(report, folder)
    past = load(folder)
    page = write_page(report, past.reports, Path(report.folder) / "report.html")
    if not options.json:
        for problem in past.problems:
            print(f"history: {problem}")
        print(f"history: {len(past.reports)} runs in {folder}")
        print(
            f"night {report.nights['night']}: false discoveries held at "
            f"{report.nights['alpha']:.2g}, {report.nights['spent']:.2g} spent so far"
        )
        print(f"report: {page}")
    return report.exit_code
