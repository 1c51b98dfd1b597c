"""`quantharness setup`."""

from __future__ import annotations

import argparse
import re
from typing import Final

from harness.cli.options import add_json

EXAMPLE = "quantharness setup quark"
#: A package that pip comes to, in an index or as a file that lies somewhere already.
_NAMED: Final = re.compile(
    r"(?:Collecting |Processing \S*/)([^\s=<>/]+?)(?=[\s=<>]|-\d|$)"
)
#: A step of what is compiled, as ninja counts it.
_STEP: Final = re.compile(r"\[(\d+)/(\d+)\]")


def configure(parser: argparse.ArgumentParser) -> None:
    """Its options."""
    parser.add_argument(
        "name",
        nargs="?",
        metavar="NAME",
        help="a backend whose packages do not go with others (default: list them)",
    )
    parser.add_argument("--force", action="store_true", help="make it anew")
    parser.add_argument("--remove", action="store_true", help="delete it")
    add_json(parser)


def execute(options: argparse.Namespace) -> int:
    """Make, delete or list environments."""
    from harness.environments import remove, set_up
    from harness.errors import UsageError
    from harness.reports.terminal import print_json

    if options.name is None:
        if options.force or options.remove:
            raise UsageError("--force and --remove need the NAME of an environment")
        return _list(as_json=options.json)
    if options.remove:
        removed = remove(options.name)
        if options.json:
            print_json({"schema": 1, "name": options.name, "removed": removed})
        else:
            print(f"{options.name}: {'removed' if removed else 'was not there'}")
        return 0
    folder = set_up(options.name, on_line=_Shown(options.name), force=options.force)
    if options.json:
        print_json({"schema": 1, "name": options.name, "folder": str(folder)})
    else:
        print(f"{options.name}: ready in {folder}")
    return 0


class _Shown:
    """Each package, and step of a compiler, as pip comes to it, on standard error.

    It takes minutes.
    """

    def __init__(self, name: str) -> None:
        from harness.environments import NEEDS, read_lock
        from harness.reports.terminal import console

        lock = read_lock(name)
        self._console = console(stderr=True)
        self._total = len(lock.requirements) + len(lock.sources)
        self._sources = ", ".join(lock.sources)
        self._seen: set[str] = set()
        self._console.print(f"{name}: {lock.summary} ({lock.size})", markup=False)
        if lock.needs:
            needs = ", ".join(NEEDS[need].what for need in lock.needs)
            text = f"{name}: {self._sources} is compiled here, with {needs}"
            self._console.print(text, markup=False, soft_wrap=True)

    def __call__(self, line: str) -> None:
        found = _NAMED.match(line)
        step = _STEP.match(line)
        if step:
            line = f"{self._sources}: compiling, step {step[1]} of {step[2]}"
        elif found:
            self._seen.add(found[1])
            line = f"[{min(len(self._seen), self._total)}/{self._total}] {found[1]}"
        elif not line.startswith(("Installing", "Successfully")):
            return
        self._console.print(line[:120], markup=False)


def _list(*, as_json: bool) -> int:
    from harness.environments import interpreter, locks, read_lock
    from harness.reports.terminal import print_json

    found = []
    for name in locks():
        lock, python = read_lock(name), interpreter(name)
        found.append(
            {
                "name": name,
                "summary": lock.summary,
                "size": lock.size,
                "python": None if python is None else str(python),
            }
        )
    if as_json:
        print_json({"schema": 1, "environments": found})
        return 0
    for entry in found:
        state = "ready" if entry["python"] else "not made"
        print(f"{entry['name']:10} {state:9} {entry['summary']} ({entry['size']})")
    return 0
