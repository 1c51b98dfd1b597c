"""`quantharness gate`."""

from __future__ import annotations

import argparse
from pathlib import Path

from harness.cli.options import add_run
from harness.cli.run import run_and_show

EXAMPLE = "quantharness gate suites --baseline reports/20261123-081502-3fa9"


def configure(parser: argparse.ArgumentParser) -> None:
    """Its options."""
    add_run(parser)
    parser.add_argument(
        "--baseline",
        required=True,
        metavar="RUN",
        help="a run's folder, or history:latest",
    )
    parser.add_argument(
        "--history",
        default="reports/history",
        metavar="DIR",
        help="folder that history:latest is in (default: reports/history)",
    )
    parser.add_argument(
        "--across-versions",
        action="store_true",
        help="compare with a baseline of another version of the backend (default: "
        "stale)",
    )


def execute(options: argparse.Namespace) -> int:
    """Run against the baseline; say where summary and JUnit file are."""
    from harness.execution.run_folder import find_baseline

    baseline = find_baseline(options.baseline, Path(options.history))
    report = run_and_show(
        options, baseline=str(baseline), across_versions=options.across_versions
    )
    if not options.json:
        for name in ("summary.md", "junit.xml"):
            print(Path(report.folder) / name)
    return report.exit_code
