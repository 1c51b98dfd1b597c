"""Tiny checkpoints that vendors' libraries wrote, and spoilt copies of them."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from harness.models.checkpoint.tensors import DTYPES, read_header

KEPT = Path(__file__).parents[1] / "checkpoints"
BASE = KEPT / "base"
#: Every checkpoint that a vendor's library wrote.
NAMES = sorted(p.name for p in KEPT.iterdir() if (p / "decoded.npz").is_file())
DOWN = "model.layers.0.mlp.down_proj"


def copied(name: str, to: Path) -> Path:
    """A copy to spoil."""
    folder = to / name
    shutil.copytree(KEPT / name, folder)
    return folder


def edit_json(file: Path, change: Callable[[dict[str, Any]], None]) -> None:
    """Change a JSON file in place."""
    table = json.loads(file.read_text())
    change(table)
    file.write_text(json.dumps(table))


def edit_tensor(folder: Path, name: str, change: Callable[[Any], Any]) -> None:
    """Change a tensor's values in place: `change` gets them and returns others."""
    file = folder / "model.safetensors"
    tensor = read_header(file)[name]
    array = tensor.read().copy()
    found = np.asarray(change(array))
    assert found.dtype == array.dtype
    assert found.shape == array.shape
    data = bytearray(file.read_bytes())
    data[tensor.offset : tensor.offset + tensor.nbytes] = found.tobytes()
    file.write_bytes(data)


def rewrite(folder: Path, change: Callable[[dict[str, Any]], None]) -> None:
    """Write the file anew after `change` of its tensors by name."""
    file = folder / "model.safetensors"
    arrays = {name: tensor.read() for name, tensor in read_header(file).items()}
    change(arrays)
    write(file, arrays)


def write(file: Path, arrays: dict[str, Any]) -> None:
    """A safetensors file, with the standard library only."""
    names = {np.dtype(kind): name for name, kind in DTYPES.items()}
    header, body = {}, b""
    for name, array in arrays.items():
        data = np.ascontiguousarray(array).tobytes()
        header[name] = {
            "dtype": names[array.dtype],
            "shape": list(array.shape),
            "data_offsets": [len(body), len(body) + len(data)],
        }
        body += data
    text = json.dumps(header).encode()
    file.write_bytes(len(text).to_bytes(8, "little") + text + body)
