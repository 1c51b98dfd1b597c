"""Goldens that are there against those that suites ask for: none may be left over."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from harness.errors import GoldenCorrupt, GoldenMissing
from harness.golden.manifest import MANIFEST
from harness.golden.store import Golden


@dataclass(frozen=True)
class Inventory:
    """Goldens of one folder against the suites that use it."""

    #: Folders of goldens that no suite asks for.
    unused: tuple[Path, ...]
    #: Suite -> folder where its golden should be.
    missing: Mapping[str, Path]

    def check(self) -> None:
        """Both fail a run: one compares nothing, the other is never compared.

        Raises:
            GoldenMissing: names the suites and what records them.
            GoldenCorrupt: names the folders, to be deleted or given a suite.
        """
        if self.missing:
            names = ", ".join(
                f"{suite} ({path})" for suite, path in self.missing.items()
            )
            raise GoldenMissing(
                f"no golden for {names}: `quantharness record` records it"
            )
        if self.unused:
            names = ", ".join(str(path) for path in self.unused)
            raise GoldenCorrupt(
                f"no suite uses {names}: delete it, or name it in a suite.toml"
            )


def take_inventory(root: Path, wanted: Mapping[str, Path]) -> Inventory:
    """Look at every golden directly under a folder.

    Args:
        root: the folder of goldens; none there is none unused.
        wanted: suite -> folder of its golden, inside `root` or elsewhere.
    """
    asked = {path.resolve() for path in wanted.values()}
    there = sorted(path.parent for path in root.glob(f"*/{MANIFEST}"))
    return Inventory(
        unused=tuple(path for path in there if path.resolve() not in asked),
        missing={
            suite: path
            for suite, path in wanted.items()
            if not (path / MANIFEST).is_file()
        },
    )


def unused_cases(golden: Golden, cases: Collection[str]) -> tuple[str, ...]:
    """Cases of a golden that were not compared, in its order."""
    return _without(golden.outputs, cases)


def missing_cases(golden: Golden, cases: Iterable[str]) -> tuple[str, ...]:
    """Cases that the golden has no outputs for."""
    return _without(cases, golden.outputs)


def _without(names: Iterable[str], others: Collection[str]) -> tuple[str, ...]:
    known = set(others)
    return tuple(name for name in names if name not in known)
