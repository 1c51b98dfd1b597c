"""What compiling a package takes that pip does not bring, tried before it is begun."""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import sysconfig
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

#: Compilers that are looked for when `CXX` names none.
_COMPILERS: Final = ("c++", "g++", "clang++")


@dataclass(frozen=True)
class Need:
    """Something that is here when a program compiles and links."""

    #: For people, and what adds it.
    what: str
    how: str
    program: str
    #: Of the compiler, before the program and after it.
    headers: tuple[str, ...] = ()
    libraries: tuple[str, ...] = ()
    #: Variable that names a folder with `include` and `lib` of its own.
    home: str = ""


#: Name in a lock file -> the need.
NEEDS: Final[Mapping[str, Need]] = {
    "c++": Need(
        what="a C++ compiler",
        how="Debian: apt-get install g++; elsewhere: CXX=COMMAND",
        program="#include <vector>\nint main() { return !std::vector<int>(1).size(); }",
    ),
    "python": Need(
        what="this Python's headers",
        how="Debian: apt-get install python3-dev",
        program="#include <Python.h>\nint main() { return 0; }",
        headers=(f"-I{sysconfig.get_path('include')}",),
    ),
    "openblas": Need(
        what="OpenBLAS with its headers",
        how="Debian: apt-get install libopenblas-dev; elsewhere: OpenBLAS_HOME=FOLDER",
        program="#include <cblas.h>\n"
        "int main() { return openblas_get_num_procs() < 1; }",
        headers=("-I/usr/include/openblas",),
        libraries=("-lopenblas",),
        home="OpenBLAS_HOME",
    ),
}


def lacking(names: Sequence[str]) -> list[str]:
    """What of these is not here, for people; without a compiler that alone.

    Args:
        names: of `NEEDS`.
    """
    if not names:
        return []
    compiler = _compiler()
    if not compiler or not _compiles(compiler, NEEDS["c++"]):
        names = ["c++"]
    else:
        names = [name for name in names if not _compiles(compiler, NEEDS[name])]
    return [f"{NEEDS[name].what} ({NEEDS[name].how})" for name in names]


def _compiler() -> list[str]:
    """The command of a C++ compiler; empty: there is none."""
    named = shlex.split(os.environ.get("CXX", ""))
    for command in [named] if named else [[name] for name in _COMPILERS]:
        if shutil.which(command[0]):
            return command
    return []


def _compiles(compiler: Sequence[str], need: Need) -> bool:
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder) / "need.cpp"
        source.write_text(need.program + "\n", encoding="utf-8")
        home = os.environ.get(need.home, "") if need.home else ""
        own = [f"-I{home}/include", f"-L{home}/lib"] if home else []
        command = [*compiler, *own, *need.headers, str(source), *need.libraries]
        done = subprocess.run(  # noqa: S603 - the compiler that would build
            [*command, "-o", str(source.with_suffix(".out"))],
            capture_output=True,
            check=False,
        )
    return done.returncode == 0
