"""`quantharness selftest`."""

from __future__ import annotations

import argparse

from harness.cli.options import add_json, add_paths, add_plugin

STRENGTHS = ("low", "catalogue", "high")
PLACES = ("one", "all")
EXAMPLE = "quantharness selftest suites/vad --sample"


def configure(parser: argparse.ArgumentParser) -> None:
    """Its options."""
    add_paths(parser)
    for name in ("backend", "scheme", "defect"):
        parser.add_argument(
            f"--{name}",
            action="append",
            metavar="NAME",
            help=f"only this {name} (repeatable)",
        )
    for name, choices in (("strength", STRENGTHS), ("place", PLACES)):
        parser.add_argument(
            f"--{name}",
            action="append",
            choices=choices,
            help=f"only this {name} (repeatable; default: every one)",
        )
    parser.add_argument(
        "--sample",
        type=int,
        nargs="?",
        const=60,
        default=0,
        metavar="N",
        help="about N trials spread over targets and defects (default with it: 60)",
    )
    parser.add_argument(
        "--controls",
        type=int,
        default=1,
        metavar="N",
        help="clean runs of every target (default: 1)",
    )
    parser.add_argument(
        "--bisect",
        action="store_true",
        help="find the smallest strength of every defect that is caught",
    )
    parser.add_argument(
        "--list", action="store_true", help="show the catalogue of defects and stop"
    )
    add_plugin(parser)
    parser.add_argument(
        "--workers",
        type=int,
        default=1,
        metavar="N",
        help="worker processes at the same time (default: 1)",
    )
    parser.add_argument(
        "--out",
        metavar="DIR",
        help="also write DIR/selftest.json and selftest.html; trials are kept there as "
        "they end, and the same command goes on where it stopped",
    )
    add_json(parser)


def execute(options: argparse.Namespace) -> int:
    """Plant; 1 when a clean run alarms or a defect of catalogue strength is missed.

    2 when nothing was planted that counts: that nothing was missed says nothing then.
    """
    from harness.execution.selftest.api import selftest
    from harness.reports.selftest import print_catalogue, print_selftest
    from harness.reports.terminal import Progress, print_json

    if options.list:
        from harness.backends.registry import load_registry
        from harness.defects import DEFECTS

        known = {**DEFECTS, **load_registry(options.plugin).defects}
        print_catalogue(list(known.values()))
        return 0
    found = selftest(
        options.paths,
        backends=options.backend,
        schemes=options.scheme,
        defects=options.defect,
        plugins=options.plugin,
        strengths=options.strength or STRENGTHS,
        places=options.place or PLACES,
        sample=options.sample,
        controls=options.controls,
        bisect=options.bisect,
        workers=options.workers,
        out=options.out,
        observer=Progress(),
    )
    if options.json:
        print_json({"schema": 1, **found})
    else:
        print_selftest(found)
        if options.out:
            print(f"pages: {options.out}/selftest.html, {options.out}/selftest.json")
    missed = [entry for entry in found["missed"] if entry["level"] == "catalogue"]
    if found["alarms"] or missed:
        return 1
    return 0 if found["caught"]["of"] else 2
