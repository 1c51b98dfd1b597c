"""`quantharness calibrate`."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from harness.cli.options import add_filters, add_json, add_paths, add_plugin

if TYPE_CHECKING:
    from harness.judge.calibrate import Proposal

EXAMPLE = "quantharness calibrate suites/minilm --write"


def configure(parser: argparse.ArgumentParser) -> None:
    """Its options."""
    add_paths(parser)
    add_filters(parser)
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


def describe(proposal: Proposal) -> str:
    """One line: measured, proposed, today's limit with its slack, theory."""
    parts = [
        (
            f"{proposal.target} {proposal.metric}: measured {proposal.value:.3g} "
            f"({proposal.low:.3g} to {proposal.high:.3g}, {proposal.cases} cases)"
        ),
        f"limit {proposal.limit:.3g}",
    ]
    if proposal.current is not None:
        today = f"today's {proposal.current:.3g}"
        if proposal.slack_sigma is not None:
            today += f" ({proposal.slack_sigma:.1f} sigma of slack)"
        parts.append(today)
    if proposal.theory is not None:
        parts.append(f"theory {proposal.theory:.3g}")
    return ", ".join([*parts, proposal.change])


def execute(options: argparse.Namespace) -> int:
    """Propose; write when asked."""
    from harness.execution.calibration import calibrate
    from harness.reports.terminal import Progress, print_json

    results = calibrate(
        options.paths,
        backends=options.backend,
        schemes=options.scheme,
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
            print(describe(proposal))
        for skipped in result.skipped:
            print(f"{skipped}: not proposed")
        print(result.written or f"{result.suite}: nothing written (--write)")
    return 0
