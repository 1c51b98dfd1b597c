"""Named arrays in one safetensors file: written the same way always, read strictly.

The file is what the safetensors format describes (8 bytes header length, JSON header,
data without holes) and any of its libraries reads it. We write it ourselves because
the library refuses or loses several dtypes and stores arrays that are not contiguous
wrongly (safetensors#825), and read it ourselves so that each way to be damaged gets
its own message and memory stays bounded by the file's size.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import ml_dtypes
import numpy as np

Array = np.ndarray[Any, np.dtype[Any]]

#: NumPy dtype name -> safetensors dtype. Others are stored as bytes, U8, with their
#: width as one more axis; whoever reads them knows the true dtype.
_NAMES: Final[Mapping[str, str]] = {
    "bool": "BOOL",
    "uint8": "U8",
    "int8": "I8",
    "uint16": "U16",
    "int16": "I16",
    "uint32": "U32",
    "int32": "I32",
    "uint64": "U64",
    "int64": "I64",
    "float16": "F16",
    "float32": "F32",
    "float64": "F64",
    "bfloat16": "BF16",
    "float8_e4m3fn": "F8_E4M3",
    "float8_e5m2": "F8_E5M2",
    "float8_e8m0fnu": "F8_E8M0",
}
#: Key of the label in the header's metadata.
_KEY: Final = "quantharness"
_DTYPES: Final = {stored: name for name, stored in _NAMES.items()}
#: Longest header that is read; the format itself allows 100 MB.
LONGEST_HEADER: Final = 16 << 20

#: First bytes of files that are put in a golden's place by mistake.
_ALIENS: Final[Mapping[bytes, str]] = {
    b"version https://git-lfs": "a git-LFS pointer; `git lfs pull` fetches the file",
    b"PK\x03\x04": "a ZIP archive (.npz, .zip or torch.save), not a golden",
    b"\x93NUMPY": "a NumPy .npy file, not a golden",
    b"\x89PNG": "a PNG image, not a golden",
    b"\x1f\x8b": "a gzip file, not a golden",
    b"GGUF": "a GGUF model, not a golden",
    b"\x80\x02": "a pickle, not a golden (it was not opened)",
    b"\x80\x03": "a pickle, not a golden (it was not opened)",
    b"\x80\x04": "a pickle, not a golden (it was not opened)",
    b"\x80\x05": "a pickle, not a golden (it was not opened)",
    b"<!DOCTYPE": "an HTML page (a login or error page?), not a golden",
    b"<html": "an HTML page (a login or error page?), not a golden",
    b"_logits_": "a llama.cpp KL base file; `read_kl_base` imports it",
}


class ContainerError(ValueError):
    """The bytes are not a whole safetensors file; the text says what they are."""


def dtype_of(name: str) -> np.dtype[Any]:
    """The dtype of a name, those of ml_dtypes included.

    Raises:
        ContainerError: not the name of a dtype of real numbers.
    """
    if name in _NAMES and not hasattr(ml_dtypes, name):
        return np.dtype(name)
    try:
        found: np.dtype[Any] = np.dtype(getattr(ml_dtypes, name))
    except (AttributeError, TypeError, ValueError):
        raise ContainerError(f"dtype {name[:40]!r} is not known") from None
    if found.name != name:
        raise ContainerError(f"dtype {name[:40]!r} is not known")
    return found


def alien(head: bytes) -> str:
    """What a file is that begins so, if it is something known; "" otherwise."""
    return next((what for magic, what in _ALIENS.items() if head.startswith(magic)), "")


def encode(tensors: Mapping[str, Array], *, label: str = "") -> bytes:
    """The file's bytes: the same for the same tensors, whatever their order.

    Args:
        tensors: any real dtype and memory layout; stored in C order.
        label: kept in the header, for whoever finds the file alone.
    """
    header: dict[str, Any] = {}
    parts: list[bytes] = []
    offset = 0
    for name in sorted(tensors):
        array = np.ascontiguousarray(tensors[name])
        # ascontiguousarray makes a scalar one-dimensional.
        shape = list(np.shape(tensors[name]))
        stored = _NAMES.get(array.dtype.name)
        if stored is None:
            stored, shape = "U8", [*shape, array.dtype.itemsize]
        data = array.tobytes()
        end = offset + len(data)
        header[name] = {"dtype": stored, "shape": shape, "data_offsets": [offset, end]}
        parts.append(data)
        offset = end
    body = b"".join(parts)
    # One key: the library writes several in any order (safetensors#584).
    metadata = {_KEY: f"{hashlib.sha256(body).hexdigest()} {label}"}
    whole = {"__metadata__": metadata, **header}
    text = json.dumps(whole, ensure_ascii=True, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return b"".join([len(text).to_bytes(8, "little"), text, body])


@dataclass(frozen=True)
class Label:
    """What a file says of itself: whose it is, and the digest of its data."""

    text: str = ""
    sha256: str = ""
    #: Digest that its data has.
    found: str = ""

    @property
    def intact(self) -> bool:
        """Whether its data is what was written."""
        return bool(self.sha256) and self.sha256 == self.found


def read_label(data: bytes) -> Label:
    """The label of a file that decodes, and whether it is intact."""
    length = int.from_bytes(data[:8], "little")
    metadata = json.loads(data[8 : 8 + length]).get("__metadata__")
    value = metadata.get(_KEY) if isinstance(metadata, dict) else None
    if not isinstance(value, str):
        return Label()
    checksum, _, text = value.partition(" ")
    found = hashlib.sha256(memoryview(data)[8 + length :]).hexdigest()
    return Label(text, checksum, found)


def decode(data: bytes) -> dict[str, Array]:
    """Arrays, read-only and sharing `data`.

    Raises:
        ContainerError: says what is wrong with the bytes.
    """
    if what := alien(data[:64]):
        raise ContainerError(what)
    if len(data) < 10:
        raise ContainerError(f"truncated: {len(data)} bytes are no safetensors file")
    length = int.from_bytes(data[:8], "little")
    if length > LONGEST_HEADER:
        raise ContainerError("not a safetensors file: no header where one should be")
    if 8 + length > len(data):
        raise ContainerError(f"truncated: the header alone has {length} bytes")
    try:
        header = json.loads(data[8 : 8 + length])
    except (ValueError, RecursionError):
        raise ContainerError("the header is not JSON: altered or alien") from None
    if not isinstance(header, dict):
        raise ContainerError("the header is not an object: altered or alien")
    header.pop("__metadata__", None)
    body = memoryview(data)[8 + length :]
    places = {name: _place(name, entry) for name, entry in header.items()}
    _check_without_holes(places, len(body))
    tensors = {}
    for name, (dtype, shape, begin, end) in places.items():
        flat: Array = np.frombuffer(body[begin:end], dtype=dtype)
        tensors[name] = flat.reshape(shape)
    return tensors


def restore(stored: Array, dtype: str, shape: tuple[int, ...]) -> Array:
    """A stored array in its true dtype.

    Raises:
        ContainerError: it cannot be that.
    """
    wanted = dtype_of(dtype)
    if stored.dtype != wanted:
        if stored.dtype != np.uint8 or stored.shape != (*shape, wanted.itemsize):
            raise ContainerError(
                f"stored as {stored.dtype} {stored.shape}, "
                f"but should be {dtype} {shape}"
            )
        stored = stored.reshape(-1).view(wanted).reshape(shape)
    if stored.shape != shape:
        raise ContainerError(f"shape={stored.shape}, but should be {shape}")
    return stored


def _place(name: str, entry: Any) -> tuple[np.dtype[Any], tuple[int, ...], int, int]:
    """Dtype, shape, begin and end of one entry of the header."""
    try:
        stored, shape = entry["dtype"], tuple(entry["shape"])
        begin, end = entry["data_offsets"]
        dtype = dtype_of(_DTYPES[stored])
    except (KeyError, TypeError, ValueError):
        raise ContainerError(f"the header's entry {name[:80]!r} is damaged") from None
    numbers = (*shape, begin, end)
    if not all(type(n) is int and 0 <= n < 2**63 for n in numbers) or len(shape) > 32:
        raise ContainerError(f"the header's entry {name[:80]!r} is damaged")
    if math.prod(shape) * dtype.itemsize != end - begin:
        raise ContainerError(
            f"tensor {name[:80]!r} has {end - begin} bytes, but its shape needs others"
        )
    return dtype, shape, begin, end


def _check_without_holes(
    places: Mapping[str, tuple[np.dtype[Any], tuple[int, ...], int, int]], size: int
) -> None:
    """Every byte belongs to one tensor."""
    reached = 0
    for _, _, begin, end in sorted(places.values(), key=lambda place: place[2:]):
        if begin != reached:
            raise ContainerError("tensors overlap or leave holes: altered")
        reached = end
    if reached > size:
        raise ContainerError(
            f"truncated: {size} bytes of data, but should be {reached}"
        )
    if reached < size:
        raise ContainerError(f"{size - reached} bytes too many at its end")
