"""Polygraphy's JSON: run results (`--save-outputs`) and lists of inputs.

Arrays are `.npy` files in base64, loaded without pickles.
"""

from __future__ import annotations

import base64
import binascii
import io
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np

from harness.errors import UsageError
from harness.golden.store import write_atomically

Array = np.ndarray[Any, np.dtype[Any]]
_CLASS: Final = "polygraphy_class"


def read_polygraphy(path: Path, *, runner: str | None = None) -> list[dict[str, Array]]:
    """Outputs (or inputs) by iteration, in order.

    Args:
        path: of run results, or of a list of feed dictionaries.
        runner: whose outputs, where there are several; None: the only one's.

    Raises:
        UsageError: not such a file, no such runner, or several and none is named.
    """
    try:
        data = json.loads(path.read_bytes())
        if isinstance(data, list):
            return [_arrays(entry) for entry in data]
        runs = dict(data["lst"])
        if runner is None and len(runs) != 1:
            raise UsageError(f"{path}: runners {', '.join(runs)}: name one of them")
        wanted = runner if runner is not None else next(iter(runs))
        if wanted not in runs:
            raise UsageError(f"{path}: no runner {wanted!r}, only {', '.join(runs)}")
        return [_arrays(entry["outputs"]) for entry in runs[wanted]]
    except (
        AttributeError,
        KeyError,
        TypeError,
        ValueError,
        RecursionError,
    ) as error:
        raise UsageError(f"{path}: not Polygraphy's JSON ({error!r:.120})") from None


def write_polygraphy(
    iterations: Sequence[Mapping[str, Array]], path: Path, *, runner: str = "golden"
) -> None:
    """Write run results that Polygraphy's `RunResults.load` and CLI read.

    Raises:
        UsageError: a dtype that `.npy` does not keep.
    """
    entries = [
        {
            "outputs": {
                name: {"values": _packed(name, array), _CLASS: "LazyArray"}
                for name, array in outputs.items()
            },
            "runtime": None,
            "runner_name": runner,
            _CLASS: "IterationResult",
        }
        for outputs in iterations
    ]
    whole = {"lst": [[runner, entries]], _CLASS: "RunResults"}
    write_atomically(path, json.dumps(whole, indent=1).encode())


def _arrays(entry: Mapping[str, Any]) -> dict[str, Array]:
    return {name: _unpacked(value) for name, value in entry.items() if name != _CLASS}


def _unpacked(value: Mapping[str, Any]) -> Array:
    inner = value.get("values", value)
    try:
        data = base64.b64decode(inner["array"], validate=True)
    except binascii.Error as error:
        raise ValueError(str(error)) from None
    array: Array = np.load(io.BytesIO(data), allow_pickle=False)
    return array


def _packed(name: str, array: Array) -> dict[str, str]:
    if array.dtype.kind not in "fiub":
        raise UsageError(
            f"{name} is {array.dtype.name}, which Polygraphy's JSON does not keep; "
            "convert it to float32 first"
        )
    file = io.BytesIO()
    np.save(file, np.ascontiguousarray(array).reshape(array.shape), allow_pickle=False)
    return {"array": base64.b64encode(file.getvalue()).decode(), _CLASS: "ndarray"}
