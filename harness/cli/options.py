"""Options that several commands share."""

from __future__ import annotations

import argparse
from typing import Any


def add_paths(parser: argparse.ArgumentParser) -> None:
    """The suites."""
    parser.add_argument(
        "paths",
        nargs="*",
        default=["suites"],
        metavar="PATH",
        help="folders that hold suites, or suite.toml files (default: suites)",
    )


def add_plugin(parser: argparse.ArgumentParser) -> None:
    """Backends and more from elsewhere."""
    parser.add_argument(
        "--plugin",
        action="append",
        default=[],
        metavar="MODULE_OR_FILE",
        help="call register(registry) of a module or file (repeatable)",
    )


def add_json(parser: argparse.ArgumentParser) -> None:
    """One object on standard output."""
    parser.add_argument("--json", action="store_true", help="print one JSON object")


def add_filters(parser: argparse.ArgumentParser) -> None:
    """Which targets."""
    parser.add_argument(
        "--backend",
        action="append",
        metavar="NAME",
        help="only targets of this backend (repeatable)",
    )
    parser.add_argument(
        "--scheme",
        action="append",
        metavar="NAME",
        help="only targets of this scheme (repeatable)",
    )


def add_memory(parser: argparse.ArgumentParser) -> None:
    """What a worker may hold."""
    parser.add_argument(
        "--memory",
        type=float,
        metavar="GIGABYTES",
        help="most that a backend's process may hold in memory, beyond which it is "
        "killed (default: no limit)",
    )


def add_run(parser: argparse.ArgumentParser) -> None:
    """Everything that `run`, `gate` and `nightly` take."""
    add_paths(parser)
    add_filters(parser)
    add_plugin(parser)
    parser.add_argument(
        "--workers",
        type=int,
        default=1,
        metavar="N",
        help="suites run at the same time (default: 1)",
    )
    parser.add_argument(
        "--timeout",
        type=float,
        metavar="SECONDS",
        help="most that one target may take (default: no limit)",
    )
    add_memory(parser)
    parser.add_argument(
        "--out",
        metavar="DIR",
        help="the run's folder (default: reports/RUN-ID); one that was interrupted "
        "there goes on",
    )
    add_json(parser)


def run_arguments(options: argparse.Namespace) -> dict[str, Any]:
    """The options of `add_run` as arguments of `harness.run`."""
    return {
        "paths": options.paths,
        "backends": options.backend,
        "schemes": options.scheme,
        "plugins": options.plugin,
        "workers": options.workers,
        "timeout": options.timeout,
        "memory": options.memory,
        "out": options.out,
    }
