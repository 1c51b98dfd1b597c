"""ONNX test data: `test_data_set_N/input_I.pb` and `output_I.pb`, one set a case.

The layout of the ONNX project's own backend tests and of its model zoo. Files hold a
TensorProto each; the name in it is the input's or output's.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from harness.errors import MissingExtraError, UsageError

Array = np.ndarray[Any, np.dtype[Any]]


@dataclass(frozen=True, eq=False)
class DataSet:
    """One test data set."""

    name: str
    inputs: Mapping[str, Array]
    outputs: Mapping[str, Array]


def read_test_data(
    folder: Path, *, inputs: Sequence[str] = (), outputs: Sequence[str] = ()
) -> list[DataSet]:
    """Read every `test_data_set_N` of a folder, in order of N.

    Args:
        folder: where the sets lie.
        inputs: names for tensors that carry none, by their number.
        outputs: the same.

    Raises:
        UsageError: no sets, a set without outputs, or a file that is no tensor.
        MissingExtraError: onnx is not installed.
    """
    sets = sorted(
        (path for path in folder.glob("test_data_set_*") if path.is_dir()), key=_number
    )
    if not sets:
        raise UsageError(f"{folder}: no test_data_set_* in it")
    found = [
        DataSet(path.name, _read(path, "input", inputs), _read(path, "output", outputs))
        for path in sets
    ]
    for data in found:
        if not data.outputs:
            raise UsageError(f"{folder / data.name}: no output_*.pb in it")
    return found


def write_test_data(sets: Sequence[DataSet], folder: Path) -> None:
    """Write data sets, numbered in their order.

    Raises:
        MissingExtraError: onnx is not installed.
    """
    helper = _onnx().numpy_helper
    for number, data in enumerate(sets):
        path = folder / f"test_data_set_{number}"
        path.mkdir(parents=True, exist_ok=True)
        for kind, arrays in (("input", data.inputs), ("output", data.outputs)):
            for index, (name, array) in enumerate(arrays.items()):
                tensor = helper.from_array(np.ascontiguousarray(array), name)
                content = tensor.SerializeToString()
                (path / f"{kind}_{index}.pb").write_bytes(content)


def _read(folder: Path, kind: str, names: Sequence[str]) -> dict[str, Array]:
    onnx = _onnx()
    from google.protobuf.message import (  # type: ignore[import-untyped]
        DecodeError,
    )

    found: dict[str, Array] = {}
    for path in sorted(folder.glob(f"{kind}_*.pb"), key=_number):
        tensor = onnx.TensorProto()
        try:
            tensor.ParseFromString(path.read_bytes())
            array = onnx.numpy_helper.to_array(tensor)
        except (DecodeError, ValueError, TypeError, KeyError) as error:
            raise UsageError(f"{path}: not an ONNX tensor ({error})") from None
        index = _number(path)
        given = names[index] if index < len(names) else f"{kind}_{index}"
        found[tensor.name or given] = array
    return found


def _number(path: Path) -> int:
    match = re.search(r"(\d+)$", path.stem)
    if match is None:
        raise UsageError(f"{path}: its name does not end in a number")
    return int(match[1])


def _onnx() -> Any:
    try:
        import onnx
        import onnx.numpy_helper
    except ImportError:
        raise MissingExtraError("onnx", "onnxruntime") from None
    return onnx
