"""Goldens that no suite asks for, and cases on one side only."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from harness.errors import ConfigError, GoldenError, UsageError
from harness.execution.suite import Suite, load_suite
from harness.golden.inventory import missing_cases, take_inventory, unused_cases
from harness.golden.manifest import MANIFEST
from harness.golden.store import Golden
from harness.judge.outcome import names


def check_unused(suites: Iterable[Suite]) -> None:
    """Refuse a golden that is never compared with anything.

    Looked at are the folders that hold the suites' goldens. Who may ask for one are
    all suites that lie beside them, chosen for this run or not; where one of those
    cannot be read, its golden is not known and nothing is said. A suite without its
    golden is no error here: its targets are `stale`.

    Raises:
        UsageError: names the golden, and what to do.
    """
    roots: dict[Path, set[Path]] = {}
    for suite in suites:
        roots.setdefault(suite.golden.parent, set()).add(suite.folder.parent)
    for root, homes in roots.items():
        try:
            wanted = {
                str(file): load_suite(file).golden
                for home in sorted(homes)
                for file in sorted(home.glob("*/suite.toml"))
            }
        except ConfigError:
            continue
        there = {n: path for n, path in wanted.items() if (path / MANIFEST).is_file()}
        try:
            take_inventory(root, there).check()
        except GoldenError as error:
            raise UsageError(str(error)) from None


def other_cases(golden: Golden, today: Iterable[str]) -> str:
    """Which cases are on one side only; "" when it is their content that differs."""
    ids = tuple(today)
    told = (
        ("gone", unused_cases(golden, ids)),
        ("new", missing_cases(golden, ids)),
    )
    return ", ".join(f"{what}: {names(found)}" for what, found in told if found)
