"""`quantharness explain`."""

from __future__ import annotations

import argparse

from harness.cli.options import add_json

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
    add_json(parser)


def execute(options: argparse.Namespace) -> int:
    """Show evidence and operators."""
    from harness.execution.api import explain
    from harness.reports.terminal import print_explanation, print_json

    report = explain(options.run, options.target)
    if options.json:
        print_json(report.as_dict())
    else:
        print_explanation(report, everything=options.target is not None)
    return 0
