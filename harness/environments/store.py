"""Making environments, once each, in the user's cache folder.

One counts as made when its `ready.json` is there, which is written last: what was
interrupted is begun anew.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import site
import subprocess
import sys
import sysconfig
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Final

from harness.environments.lock import Lock, read_lock
from harness.environments.toolchain import lacking
from harness.errors import BackendError
from harness.files import locked, write_json
from harness.models.export import cache_folder

#: Tells a worker in which environment it runs.
VARIABLE: Final = "QUANTHARNESS_ENVIRONMENT"
#: Folders of packages that a worker falls back to: those of the harness itself.
_INHERITED: Final = "QUANTHARNESS_INHERITED_PATH"
_READY: Final = "ready.json"
#: The package whose build depends on the machine: its own needs decide, the rest of a
#: lock is installed exactly as it stands.
_FIRST: Final = "torch"
#: Bytes on the disk below which a failure is taken for a lack of them.
_LITTLE: Final = 64 << 20
#: Lines of a failed command that are shown: the last, and of a compiler's the first.
_SHOWN: Final = 6
_ERRORS: Final = 3

OnLine = Callable[[str], None]


def folder_of(lock: Lock) -> Path:
    """Where the environment lies, or would."""
    return cache_folder() / "environments" / f"{lock.name}-{lock.key}"


def interpreter(name: str) -> Path | None:
    """The Python of an environment that was made; None: it was not.

    Raises:
        UsageError: there is no such environment.
    """
    folder = folder_of(read_lock(name))
    python = _python(folder)
    return python if (folder / _READY).is_file() and python.exists() else None


def is_inside(name: str) -> bool:
    """Whether this process runs in that environment."""
    return os.environ.get(VARIABLE) == name


def variables(name: str) -> dict[str, str]:
    """What a worker in that environment is started with; empty: it was not made.

    Of our own path only what is not installed is handed on, or our packages would
    stand before the environment's. The installed ones come after them: a model may
    come from a package that only we have, and the harness itself may be one.
    """
    if interpreter(name) is None:
        return {}
    packages = site.getsitepackages()
    installed = [*packages, sysconfig.get_path("stdlib")]
    own = [path for path in sys.path if path and not _under(path, installed)]
    inherited = [path for path in sys.path if _under(path, packages)]
    inherited.append(str(Path(__file__).parents[2]))
    return {
        VARIABLE: name,
        "PYTHONPATH": os.pathsep.join(own),
        _INHERITED: os.pathsep.join(inherited),
        # What torch compiles on first use belongs to the environment too.
        "TORCH_EXTENSIONS_DIR": str(folder_of(read_lock(name)) / "extensions"),
    }


def launch(name: str, module: str) -> list[str]:
    """The command that runs a module in an environment, with its `variables`.

    Raises:
        UsageError: there is no such environment.
        BackendError: it was not made.
    """
    python = interpreter(name)
    if python is None:
        raise BackendError(f"{name}: not set up; `quantharness setup {name}` does it")
    start = (
        f"import os, runpy, sys; sys.path += os.environ[{_INHERITED!r}]"
        f".split(os.pathsep); runpy.run_module({module!r}, run_name='__main__')"
    )
    return [str(python), "-c", start]


def set_up(name: str, *, on_line: OnLine, force: bool = False) -> Path:
    """Make an environment, or find it made.

    Args:
        name: of a lock.
        on_line: told each line that pip prints.
        force: make it anew.

    Returns:
        Its folder.

    Raises:
        UsageError: there is no such environment, or another process makes it.
        BackendError: a command fails: no network, no space; or what compiling takes
            is not here, which is said before anything is begun.
    """
    lock = read_lock(name)
    folder = folder_of(lock)
    if interpreter(name) is not None and not force:
        return folder
    missing = lacking(lock.needs)
    if missing:
        raise BackendError(
            f"{name}: {', '.join(lock.sources)} is compiled here, but what that takes "
            "is missing:\n  " + "\n  ".join(missing)
        )
    try:
        _make(lock, folder, on_line)
    except OSError as error:
        raise BackendError(
            f"{error.filename or folder}: {error.strerror}; the environment is made "
            "below $QUANTHARNESS_CACHE, or in the user's cache folder"
        ) from None
    return folder


def _make(lock: Lock, folder: Path, on_line: OnLine) -> None:
    with _alone(folder):
        shutil.rmtree(folder, ignore_errors=True)
        python = _python(folder)
        _run([sys.executable, "-m", "venv", str(folder)], "making it", on_line, folder)
        pip = [str(python), "-m", "pip", "install", "--disable-pip-version-check"]
        first = [r for r in lock.requirements if r.partition("==")[0] == _FIRST]
        rest = [r for r in lock.requirements if r not in first]
        if first:
            _run([*pip, *first], f"installing {first[0]}", on_line, folder)
        if rest:
            _run([*pip, "--no-deps", *rest], "installing the rest", on_line, folder)
        for source in lock.sources:
            # Verbose: else pip keeps what is compiled to itself until it has failed.
            compiled = ["-v", "--no-build-isolation", "--no-deps", source]
            what = f"compiling {source}"
            _run([*pip, *compiled], what, on_line, folder, _building(python))
        if lock.check:
            extensions = {"TORCH_EXTENSIONS_DIR": str(folder / "extensions")}
            what = "its packages do not work"
            _run([str(python), "-c", lock.check], what, on_line, folder, extensions)
        exact = (*lock.requirements, *lock.sources)
        ready = {"lock": exact, "python": sys.version}
        write_json(folder / _READY, ready)


def remove(name: str) -> bool:
    """Delete an environment, finished or not; False: there was none.

    Raises:
        UsageError: there is no such environment, or another process makes it.
    """
    folder = folder_of(read_lock(name))
    if not folder.exists():
        return False
    with _alone(folder):
        shutil.rmtree(folder)
    return True


def _python(folder: Path) -> Path:
    return folder / ("Scripts/python.exe" if sys.platform == "win32" else "bin/python")


def _building(python: Path) -> dict[str, str]:
    """Variables of a build: its tools are the environment's, one job a processor."""
    path = os.pathsep.join([str(python.parent), os.environ.get("PATH", os.defpath)])
    jobs = os.environ.get("CMAKE_BUILD_PARALLEL_LEVEL", str(os.cpu_count() or 1))
    return {"PATH": path, "CMAKE_BUILD_PARALLEL_LEVEL": jobs}


def _under(path: str, folders: Sequence[str]) -> bool:
    return any(Path(path).is_relative_to(folder) for folder in folders)


def _run(
    command: Sequence[str],
    what: str,
    on_line: OnLine,
    folder: Path,
    more: dict[str, str] | None = None,
) -> None:
    # The packages of whoever calls must not be seen, nor warned of.
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    environment |= more or {}
    last: deque[str] = deque(maxlen=_SHOWN)
    errors: list[str] = []
    with subprocess.Popen(  # noqa: S603 - our own interpreter
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        env=environment,
    ) as process:
        assert process.stdout is not None  # sanity check
        for line in process.stdout:
            if line.strip():
                last.append(line.strip())
                if "error: " in line.lower() and len(errors) < _ERRORS:
                    errors.append(line.strip())
                on_line(line.strip())
    if process.returncode:
        first = [line for line in errors if line not in last]
        raise BackendError(
            f"{what}: {Path(command[0]).name} ended with {process.returncode}; its "
            + ("errors and " if first else "")
            + "last lines:\n  "
            + "\n  ".join([*first, *last])
            + _space(folder)
        )


def _space(folder: Path) -> str:
    """What a full disk is called by those who do not say it."""
    free = shutil.disk_usage(folder.parent).free
    if free >= _LITTLE:
        return ""
    return f"\n{folder.parent} has {free >> 20} MiB left: make room, then try again"


@contextlib.contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Nobody else makes or removes the environment meanwhile."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    file = folder.with_suffix(".lock")
    file.touch()
    other = "another process makes or removes this environment; wait for it"
    with locked(file, f"{folder}: {other}"):
        yield
