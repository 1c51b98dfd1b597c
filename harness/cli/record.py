"""`quantharness record`."""

from __future__ import annotations

import argparse

from harness.cli.options import add_json, add_paths, add_plugin

EXAMPLE = 'quantharness record suites/minilm --renew --reason "new tokenizer"'


def configure(parser: argparse.ArgumentParser) -> None:
    """Its options."""
    add_paths(parser)
    add_plugin(parser)
    parser.add_argument(
        "--renew", action="store_true", help="write over a sealed golden what changed"
    )
    parser.add_argument("--reason", default="", help="why; kept in the golden")
    parser.add_argument(
        "--allow-ci", action="store_true", help="record on a CI machine all the same"
    )
    parser.add_argument(
        "--allow-dirty",
        action="store_true",
        help="record from files that are not committed all the same",
    )
    add_json(parser)


def execute(options: argparse.Namespace) -> int:
    """Record; say what became of each golden."""
    from harness.execution.api import record
    from harness.reports.terminal import Progress, print_json

    result = record(
        options.paths,
        renew=options.renew,
        reason=options.reason,
        plugins=options.plugin,
        allow_ci=options.allow_ci,
        allow_dirty=options.allow_dirty,
        observer=Progress(),
    )
    if options.json:
        suites = [
            {
                "suite": suite.name,
                "status": suite.status,
                "changes": list(suite.changes),
                "message": suite.message,
            }
            for suite in result.suites
        ]
        print_json({"schema": 1, "suites": suites})
        return result.exit_code
    for suite in result.suites:
        print(f"{suite.name}: {suite.status}: {suite.message}")
        for change in suite.changes[:20]:
            print(f"  {change}")
        if len(suite.changes) > 20:
            print(f"  and {len(suite.changes) - 20} more")
    return result.exit_code
