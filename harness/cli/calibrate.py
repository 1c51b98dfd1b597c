"""`quantharness calibrate`."""

from __future__ import annotations

import argparse

from harness.cli.options import add_json, add_paths, add_plugin

EXAMPLE = "quantharness calibrate suites/minilm --write"


def configure(parser: argparse.ArgumentParser) -> None:
    """Its options."""
    add_paths(parser)
    add_plugin(parser)
    parser.add_argument(
        "--write",
        action="store_true",
        help="write budgets.toml beside each suite (default: only show)",
    )
    parser.add_argument(
        "--reason", default="", help="why a limit is loosened; kept in the ledger"
    )
    add_json(parser)


def execute(options: argparse.Namespace) -> int:
    """Propose; write when asked."""
    from harness.execution.calibration import calibrate
    from harness.reports.terminal import Progress, print_json

    results = calibrate(
        options.paths,
        plugins=options.plugin,
        write=options.write,
        reason=options.reason,
        observer=Progress(),
    )
    if options.json:
        print_json({"schema": 1, "suites": [result.as_dict() for result in results]})
        return 0
    for result in results:
        for proposal in result.proposals:
            print(
                f"{proposal.target} {proposal.metric}: measured "
                f"{proposal.value:.3g} ({proposal.low:.3g} to {proposal.high:.3g}, "
                f"{proposal.cases} cases), limit {proposal.limit:.3g}, "
                f"{proposal.change}"
            )
        for skipped in result.skipped:
            print(f"{skipped}: not proposed")
        print(result.written or f"{result.suite}: nothing written (--write)")
    return 0
