"""`quantharness explain`."""

from __future__ import annotations

import argparse
import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING

from harness.cli.options import add_json, add_plugin
from harness.errors import UsageError

if TYPE_CHECKING:
    from harness.judge.types import Judgement, Report

EXAMPLE = "quantharness explain reports/20261123-081502-3fa9 minilm/torch/mxfp4"


def configure(parser: argparse.ArgumentParser) -> None:
    """Its options."""
    parser.add_argument("run", metavar="RUN", help="a run's folder")
    parser.add_argument(
        "target",
        nargs="?",
        metavar="TARGET",
        help="suite/backend/scheme (default: every target that does not pass)",
    )
    parser.add_argument(
        "--plot",
        metavar="FILE",
        help="draw the target's network and error map (.svg, .png or .pdf)",
    )
    parser.add_argument(
        "--repro",
        action="store_true",
        help="shrink an input of the worst operator and write it as a runnable file",
    )
    parser.add_argument(
        "--bisect",
        action="store_true",
        help="find the guilty operator by leaving parts unquantized: for backends "
        "that show nothing inside",
    )
    parser.add_argument(
        "--suite",
        action="append",
        metavar="PATH",
        help="where --repro and --bisect look for the suite (default: suites)",
    )
    add_plugin(parser)
    add_json(parser)


def _only(report: Report, option: str) -> Judgement:
    """The one target that an option is about: the only one, or that which fails."""
    failing = [entry for entry in report.targets if entry.verdict.fails]
    chosen = list(report.targets) if len(report.targets) == 1 else failing
    if len(chosen) != 1:
        names = "".join(f"\n  {entry.name}" for entry in chosen or report.targets)
        raise UsageError(f"{option} is about one target; name one of{names}")
    return chosen[0]


def execute(options: argparse.Namespace) -> int:
    """Show evidence, operators and causes; draw and shrink when asked."""
    from harness.execution.api import explain
    from harness.reports.terminal import (
        print_bisection,
        print_explanation,
        print_json,
    )

    report = explain(options.run, options.target)
    if options.plot:
        from harness.reports.plot import plot

        plot(_only(report, "--plot"), Path(options.plot))
    folder = None
    if options.repro:
        from harness.execution.repro import write_repro

        folder = write_repro(
            dataclasses.replace(report, folder=options.run),
            _only(report, "--repro"),
            suites=options.suite or ["suites"],
            plugins=options.plugin,
        )
    halved = None
    if options.bisect:
        from harness.execution.repro import bisect

        halved = bisect(
            _only(report, "--bisect"),
            Path(options.run) / "logs" / "bisect.log",
            suites=options.suite or ["suites"],
            plugins=options.plugin,
        )
    if options.json:
        found = report.as_dict()
        if folder is not None:
            found["repro"] = str(folder)
        if halved is not None:
            found["bisection"] = halved.as_dict()
        print_json(found)
        return 0
    print_explanation(report, everything=options.target is not None)
    if halved is not None:
        print_bisection(halved.as_dict())
    if folder is not None:
        print(f"repro: python {folder / 'repro.py'}")
    return 0
