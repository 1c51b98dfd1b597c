"""`quantharness conformance`."""

from __future__ import annotations

import argparse
import shutil
import textwrap
from typing import TYPE_CHECKING

from harness.cli.options import add_json, add_memory, add_plugin

if TYPE_CHECKING:
    from harness.conformance import SchemeReport

EXAMPLE = "quantharness conformance --backend openvino@f32 --scheme mxfp4"


def configure(parser: argparse.ArgumentParser) -> None:
    """Its options."""
    parser.add_argument(
        "--backend", required=True, metavar="NAME", help="a backend, or NAME@VARIANT"
    )
    parser.add_argument(
        "--scheme",
        action="append",
        metavar="NAME",
        help="only this scheme (repeatable; default: every scheme that ships)",
    )
    parser.add_argument(
        "--timeout",
        type=float,
        metavar="SECONDS",
        help="most that one scheme may take (default: no limit)",
    )
    add_memory(parser)
    add_plugin(parser)
    add_json(parser)


def execute(options: argparse.Namespace) -> int:
    """0: all that it supports conforms; 1: something deviates, or nothing ran."""
    from harness.backends.registry import load_registry
    from harness.execution.conformance import conform, conforms
    from harness.reports.terminal import print_json
    from harness.schemes.catalogue import SCHEMES, scheme_by_name

    registry = load_registry(options.plugin)
    extra = tuple(registry.schemes)
    schemes = [
        registry.schemes.get(name) or scheme_by_name(name, extra=extra)
        for name in options.scheme or SCHEMES
    ]
    reports = conform(
        registry,
        options.backend,
        schemes,
        plugins=options.plugin,
        timeout=options.timeout,
        memory=options.memory,
        on_done=None if options.json else show,
    )
    passed = conforms(reports)
    if options.json:
        print_json(
            {"schema": 1, "conforms": passed, "schemes": [r.as_dict() for r in reports]}
        )
    else:
        print(summary(reports))
    return 0 if passed else 1


def show(report: SchemeReport) -> None:
    """One line a scheme; what fails below it."""
    note = report.reason if report.level in ("unsupported", "error") else ""
    print(f"{report.scheme:20} {report.level:12} {note or report.execution}".rstrip())
    width = max(60, shutil.get_terminal_size().columns)
    for check in report.checks:
        if check.passed is False:
            line = f"{check.name}: {check.detail}"
            print(
                textwrap.fill(
                    line, width, initial_indent="  ", subsequent_indent="    "
                )
            )


def summary(reports: tuple[SchemeReport, ...]) -> str:
    """How many schemes have which level."""
    counts: dict[str, int] = {}
    for report in reports:
        counts[report.level] = counts.get(report.level, 0) + 1
    shown = ", ".join(f"{count} {level}" for level, count in counts.items())
    version = next((report.version for report in reports if report.version), "-")
    return f"{reports[0].backend} {version}: {shown}"
