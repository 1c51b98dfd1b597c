"""Files written whole or not at all."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

from harness.errors import UsageError

#: Read once: it can only be read by setting it, which is nothing for many threads.
_UMASK: Final = os.umask(0o022)
os.umask(_UMASK)


def output_folder(path: Path) -> Path:
    """Make a folder that a user named, before any work that will be written there.

    Raises:
        UsageError: it cannot be made, or nothing can be written in it.
    """
    try:
        path.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=path):
            return path
    except OSError as error:
        raise UsageError(
            f"{path}: no folder to write into ({error.strerror}); give another one"
        ) from error


@contextlib.contextmanager
def locked(path: Path, held: str) -> Iterator[None]:
    """Hold a file or a folder that no other process holds meanwhile.

    Where the system or the file system knows no such locks nothing is held.

    Args:
        path: it is there.
        held: what is raised where another process holds it.

    Raises:
        UsageError: another process does.
    """
    if sys.platform == "win32":
        yield
        return
    import fcntl

    handle = os.open(path, os.O_RDONLY)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UsageError(held) from None
        except OSError as error:
            if error.errno not in (errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS):
                raise
        yield
    finally:
        os.close(handle)


def alone_in(folder: Path) -> contextlib.AbstractContextManager[None]:
    """Write in a folder that no other process writes in meanwhile; see `locked`."""
    other = "another process writes there; wait for it to end, or name another --out"
    return locked(folder, f"{folder}: {other}")


def write_bytes(path: Path, data: bytes) -> None:
    """Write a file atomically: temporary file, fsync, rename."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        # What mkstemp makes only its owner may read; others get what umask leaves.
        Path(temporary).chmod(0o666 & ~_UMASK)
        Path(temporary).replace(path)
    except BaseException:
        with contextlib.suppress(FileNotFoundError):
            Path(temporary).unlink()
        raise


def write_text(path: Path, text: str) -> None:
    """Write UTF-8 text atomically."""
    write_bytes(path, text.encode())


def write_json(path: Path, value: Any) -> None:
    """Write JSON atomically; numbers that JSON lacks are written as their names."""
    text = json.dumps(finite(value), indent=1, ensure_ascii=False, allow_nan=False)
    write_text(path, text + "\n")


def finite(value: Any) -> Any:
    """The same value with every non-finite number as its name: "inf", "nan"."""
    if isinstance(value, dict):
        return {str(key): finite(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [finite(entry) for entry in value]
    if isinstance(value, float) and value - value != 0:
        return str(value)
    return value
