"""`quantharness hunt`."""

from __future__ import annotations

import argparse
import json
import re
import sys

from harness.cli.options import add_json, add_plugin

EXAMPLE = "quantharness hunt suites/smollm2 --scheme int8 --budget 5m"
_BUDGET = re.compile(r"(\d+)(s|m|h)")


def seconds(text: str) -> float:
    """`90s`, `5m` or `1h` in seconds."""
    found = _BUDGET.fullmatch(text)
    if not found or int(found.group(1)) == 0:
        raise argparse.ArgumentTypeError(f"{text!r}, but should be like 90s, 5m, 1h")
    return int(found.group(1)) * {"s": 1.0, "m": 60.0, "h": 3600.0}[found.group(2)]


def configure(parser: argparse.ArgumentParser) -> None:
    """Its options."""
    parser.add_argument("suite", metavar="SUITE", help="a suite of a language model")
    parser.add_argument("--backend", metavar="NAME", help="only this backend")
    parser.add_argument("--scheme", metavar="NAME", help="only this scheme")
    add_plugin(parser)
    parser.add_argument(
        "--budget",
        type=seconds,
        default=300.0,
        metavar="TIME",
        help="time a target: 90s, 5m, 1h (default: 5m)",
    )
    parser.add_argument(
        "--count", type=int, default=5, metavar="N", help="cases proposed (default: 5)"
    )
    add_json(parser)


def execute(options: argparse.Namespace) -> int:
    """Search each target; print what was found as lines of `cases.jsonl`.

    Only those go to the standard output: `>> cases.jsonl` appends them.
    """
    from harness.execution.hunting import hunt
    from harness.reports.terminal import print_json

    results = hunt(
        options.suite,
        backends=[options.backend] if options.backend else None,
        schemes=[options.scheme] if options.scheme else None,
        plugins=options.plugin,
        seconds=options.budget,
        count=options.count,
    )
    if options.json:
        print_json({"schema": 1, "hunts": results})
        return 0
    for result in results:
        print(
            f"{result['target']}: {result['tried']} prompts tried, the suite's own "
            f"have KL={result['seed_kl']:.3g} on average; "
            f"{len(result['cases'])} found are lines for {result['file']}; its golden "
            "is then to be renewed: `quantharness record SUITE --renew`",
            file=sys.stderr,
        )
        for case in result["cases"]:
            print(json.dumps(case, ensure_ascii=False))
    return 0
