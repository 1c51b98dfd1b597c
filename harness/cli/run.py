"""`quantharness run`."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness.cli.options import add_run, run_arguments

if TYPE_CHECKING:
    from harness.judge.types import Report

EXAMPLE = "quantharness run suites --backend onnxruntime --scheme fp8_e4m3"


def configure(parser: argparse.ArgumentParser) -> None:
    """Its options."""
    add_run(parser)
    parser.add_argument(
        "--all",
        action="store_true",
        help="every scheme on every backend that can be used here, not only the "
        "suites' own targets; what does not go together is `unsupported`, with the "
        "reason",
    )


def execute(options: argparse.Namespace) -> int:
    """Run, show, write the artifacts."""
    return run_and_show(options, everything=options.all).exit_code


def run_and_show(options: argparse.Namespace, **more: Any) -> Report:
    """Run with progress; print the matrix or the JSON; write every artifact."""
    from harness.execution.api import environment_differences, run
    from harness.reports.artifacts import write_artifacts
    from harness.reports.terminal import Progress, print_json, print_report

    report = run(**run_arguments(options), observer=Progress(), **more)
    changed = environment_differences(report, more.get("baseline"))
    write_artifacts(report, Path(report.folder), differences=changed)
    if options.json:
        print_json(report.as_dict())
    else:
        print_report(report)
    return report
