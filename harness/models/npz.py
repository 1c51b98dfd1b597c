"""Arrays of an `.npz` beside the cases, read without pickle."""

from __future__ import annotations

import functools
import zipfile
from pathlib import Path
from typing import Any

import numpy as np

from harness.errors import CasesError

Array = np.ndarray[Any, np.dtype[Any]]


@functools.lru_cache(maxsize=4)
def read_npz(path: Path) -> dict[str, Array]:
    """All arrays of a file.

    Raises:
        CasesError: missing, damaged, or it holds Python objects.
    """
    try:
        # Opened here, since np.load leaves a damaged file open.
        with path.open("rb") as file, np.load(file, allow_pickle=False) as data:
            return {name: data[name] for name in data.files}
    except FileNotFoundError:
        raise CasesError(f"{path}: no such file") from None
    except (ValueError, OSError, zipfile.BadZipFile, EOFError) as error:
        raise CasesError(f"{path}: not a readable .npz ({error})") from None


def read_npz_entry(spec: Any, folder: Path, *, key: str) -> Array:
    """The array that `file.npz#NAME` means.

    Raises:
        CasesError: malformed, outside the folder, or not there.
    """
    if not isinstance(spec, str) or "#" not in spec:
        raise CasesError(f'{key}={spec!r}, but should be "file.npz#NAME"')
    file, _, name = spec.partition("#")
    path = inside(folder, file)
    arrays = read_npz(path)
    if name not in arrays:
        raise CasesError(f"{key}={spec!r}: {path.name} has no array {name!r}")
    return arrays[name]


def inside(folder: Path, file: str) -> Path:
    """The path of a file that must not leave its folder.

    Raises:
        CasesError: it does.
    """
    root = folder.resolve()
    path = (root / file).resolve()
    if not path.is_relative_to(root):
        raise CasesError(f"{file!r} leaves the folder {folder}")
    return path
