"""`.npz` and safetensors: one array for each `CASE/OUTPUT`.

Keys are split at their first slash; a key without one is an output of the case
"default". NumPy's archive knows no dtypes but its own, so others are refused there
rather than turned into bytes; safetensors keeps them.
"""

from __future__ import annotations

import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import numpy as np

from harness.errors import UsageError
from harness.golden.container import ContainerError, decode, encode
from harness.golden.store import write_atomically

Array = np.ndarray[Any, np.dtype[Any]]
ByCase = dict[str, dict[str, Array]]

#: Case of arrays whose key names none.
DEFAULT_CASE: Final = "default"


def by_case(arrays: Mapping[str, Array]) -> ByCase:
    """Case -> output -> array of keys `CASE/OUTPUT`."""
    found: ByCase = {}
    for key, array in arrays.items():
        case, slash, output = key.partition("/")
        if not slash:
            case, output = DEFAULT_CASE, key
        found.setdefault(case, {})[output] = array
    return found


def flat(outputs: Mapping[str, Mapping[str, Array]]) -> dict[str, Array]:
    """`CASE/OUTPUT` -> array.

    Raises:
        UsageError: a case's name has a slash, so it could not be read back.
    """
    for case in outputs:
        if "/" in case:
            raise UsageError(f"case {case!r}: a name with a slash cannot be exported")
    return {
        f"{case}/{name}": np.asarray(array)
        for case, arrays in outputs.items()
        for name, array in arrays.items()
    }


def read_npz(path: Path) -> ByCase:
    """Read a `.npz`; objects (pickles) are refused.

    Raises:
        UsageError: not a whole archive of plain arrays.
    """
    try:
        # Opened here: NumPy forgets to close a file that is no archive.
        with path.open("rb") as file, np.load(file, allow_pickle=False) as archive:
            return by_case({key: archive[key] for key in archive.files})
    except (OSError, ValueError, KeyError, TypeError, zipfile.BadZipFile) as error:
        raise UsageError(f"{path}: not a .npz of plain arrays ({error})") from None


def write_npz(outputs: Mapping[str, Mapping[str, Array]], path: Path) -> None:
    """Write a compressed `.npz`.

    Raises:
        UsageError: a dtype that NumPy's archive loses (bfloat16, FP8, FP4, int4).
    """
    arrays = flat(outputs)
    for key, array in arrays.items():
        if array.dtype.kind not in "fiub":
            raise UsageError(
                f"{key} is {array.dtype.name}, which .npz does not keep; export it as "
                "safetensors, or convert it to float32 first"
            )
    np.savez_compressed(path, allow_pickle=False, **arrays)


def read_safetensors(path: Path) -> ByCase:
    """Read any safetensors file.

    Raises:
        UsageError: it is not a whole one.
    """
    try:
        return by_case(decode(path.read_bytes()))
    except (OSError, ContainerError) as error:
        raise UsageError(f"{path}: {error}") from None


def write_safetensors(outputs: Mapping[str, Mapping[str, Array]], path: Path) -> None:
    """Write a safetensors file; the dtypes that it knows are kept."""
    write_atomically(path, encode(flat(outputs)))
