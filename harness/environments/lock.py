"""What an environment holds: one file of exact versions each, beside this one."""

from __future__ import annotations

import difflib
import hashlib
import platform
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from harness.errors import UsageError

_FOLDER: Final = Path(__file__).parent


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

    @property
    def key(self) -> str:
        """Digest of what makes an environment another: versions, Python, machine."""
        parts = (
            *self.requirements,
            self.check,
            sys.version.partition(" ")[0],
            platform.machine(),
        )
        return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:12]

    def version(self, package: str) -> str:
        """The version of a package; empty when it is not in the lock."""
        for line in self.requirements:
            name, _, found = line.partition("==")
            if name == package:
                return found
        return ""


def locks(folder: Path = _FOLDER) -> tuple[str, ...]:
    """Names of all environments, sorted."""
    return tuple(sorted(file.stem for file in folder.glob("*.txt")))


def read_lock(name: str, folder: Path = _FOLDER) -> Lock:
    """The lock of that name.

    Raises:
        UsageError: there is none, or a line of it is no exact version.
    """
    known = locks(folder)
    if name not in known:
        close = difflib.get_close_matches(name, known, n=1)
        hint = f"did you mean {close[0]!r}?" if close else f"known: {', '.join(known)}"
        raise UsageError(f"no environment is called {name!r}; {hint}")
    file = folder / f"{name}.txt"
    comments, requirements = [], []
    for number, line in enumerate(file.read_text(encoding="utf-8").splitlines(), 1):
        text = line.strip()
        if text.startswith("#"):
            comments.append(text.removeprefix("#").strip())
        elif text:
            package, exact, version = text.partition("==")
            if not (package and exact and version) or " " in text:
                raise UsageError(
                    f"{file}:{number}: {text!r}, but should be NAME==VERSION"
                )
            requirements.append(text)
    told = {
        key: value.strip()
        for key, colon, value in (line.partition(":") for line in comments)
        if colon and key in ("size", "check")
    }
    return Lock(
        name=name,
        summary=comments[0] if comments else "",
        size=told.get("size", ""),
        check=told.get("check", ""),
        requirements=tuple(requirements),
    )
