"""What an environment holds: one file of exact versions each, beside this one."""

from __future__ import annotations

import difflib
import hashlib
import platform
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from harness.environments.toolchain import NEEDS
from harness.errors import UsageError

_FOLDER: Final = Path(__file__).parent
#: In a lock file, above what is compiled here.
_SOURCES: Final = "[sources]"


@dataclass(frozen=True)
class Lock:
    """Exact versions, in the order in which they are installed."""

    name: str
    #: For people, one line.
    summary: str
    #: For people: disk space, and what else it takes.
    size: str
    #: Python that proves the environment; run in it before it counts as made.
    check: str
    #: `NAME==VERSION`, none twice.
    requirements: tuple[str, ...]
    #: The same, of what is compiled here, after all others and with them.
    sources: tuple[str, ...] = ()
    #: What compiling takes that pip does not bring: names of `toolchain.NEEDS`.
    needs: tuple[str, ...] = ()

    @property
    def key(self) -> str:
        """Digest of what makes an environment another: versions, Python, machine."""
        parts = (
            *self.requirements,
            *(f"{line} compiled" for line in self.sources),
            self.check,
            sys.version.partition(" ")[0],
            platform.machine(),
        )
        return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:12]

    def version(self, package: str) -> str:
        """The version of a package; empty when it is not in the lock."""
        for line in (*self.requirements, *self.sources):
            name, _, found = line.partition("==")
            if name == package:
                return found
        return ""


def locks(folder: Path = _FOLDER) -> tuple[str, ...]:
    """Names of all environments, sorted."""
    return tuple(sorted(file.stem for file in folder.glob("*.txt")))


def read_lock(name: str, folder: Path = _FOLDER) -> Lock:
    """The lock of that name.

    A file has comments, of which the first says what it is for and `size:`, `check:`
    and `needs:` begin those that are read; then a `NAME==VERSION` a line; then,
    below `[sources]`, those that are compiled here.

    Raises:
        UsageError: there is none, a line of it is no exact version, or it needs what
            nobody knows.
    """
    known = locks(folder)
    if name not in known:
        close = difflib.get_close_matches(name, known, n=1)
        hint = f"did you mean {close[0]!r}?" if close else f"known: {', '.join(known)}"
        raise UsageError(f"no environment is called {name!r}; {hint}")
    file = folder / f"{name}.txt"
    comments: list[str] = []
    requirements: list[str] = []
    sources: list[str] = []
    exact_ones = requirements
    for number, line in enumerate(file.read_text(encoding="utf-8").splitlines(), 1):
        text = line.strip()
        if text.startswith("#"):
            comments.append(text.removeprefix("#").strip())
        elif text == _SOURCES:
            exact_ones = sources
        elif text:
            package, exact, version = text.partition("==")
            if not (package and exact and version) or " " in text:
                raise UsageError(
                    f"{file}:{number}: {text!r}, but should be NAME==VERSION"
                )
            exact_ones.append(text)
    told = {
        key: value.strip()
        for key, colon, value in (line.partition(":") for line in comments)
        if colon and key in ("size", "check", "needs")
    }
    needs = tuple(filter(None, told.get("needs", "").split(", ")))
    unknown = sorted(set(needs) - set(NEEDS))
    if unknown:
        raise UsageError(f"{file}: needs {unknown}, but should be of {sorted(NEEDS)}")
    return Lock(
        name=name,
        summary=comments[0] if comments else "",
        size=told.get("size", ""),
        check=told.get("check", ""),
        requirements=tuple(requirements),
        sources=tuple(sources),
        needs=needs,
    )
