"""Planting in a safetensors file: compressed-tensors, ModelOpt, GPTQ, plain FP8.

A weight is several tensors whose names share a stem: codes, scales, zero points and the
tensor's own scale. AWQ's order of codes is not read.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import ml_dtypes
import numpy as np

from harness.defects.stored.slots import Slot, plant_file, plant_slots
from harness.defects.stored.types import Meaning, Planted, StoredWeight
from harness.defects.types import Defect, Planting
from harness.errors import ModelError

Array = np.ndarray[Any, np.dtype[Any]]

_TYPES: Final[Mapping[str, Any]] = {
    "F32": np.float32,
    "F16": np.float16,
    "BF16": ml_dtypes.bfloat16,
    "F8_E4M3": ml_dtypes.float8_e4m3fn,
    "F8_E5M2": ml_dtypes.float8_e5m2,
    "F8_E8M0": ml_dtypes.float8_e8m0fnu,
    "I64": np.int64,
    "I32": np.int32,
    "I8": np.int8,
    "U8": np.uint8,
}
_CODES: Final = ("weight_packed", "qweight", "weight")
_SCALES: Final = ("weight_scale", "weight_scale_inv", "scales")
_ZEROS: Final = ("weight_zero_point", "qzeros")
_TENSOR: Final = ("weight_global_scale", "weight_scale_2")
_QUERIES_AND_KEYS: Final = ("q_proj", "k_proj")


@dataclass(frozen=True)
class _Entry:
    """A tensor of the file, as its header has it."""

    dtype: str
    shape: tuple[int, ...]
    start: int
    stop: int


def plant_safetensors(
    source: Path, out: Path, defect: Defect, planting: Planting | None = None
) -> Planted:
    """A copy of a safetensors file with a defect in its weights' bytes.

    Args:
        source: the file; it stays as it is.
        out: the copy.
        defect: one of stored bytes.
        planting: of which weights (names without the part after the last dot, or a
            pattern) and how much.

    Raises:
        ModelError: the file cannot be read.
        UnsupportedError: the defect fits no weight.
        UsageError: no weight has that name.
    """
    wanted = planting or Planting(defect=defect.name)
    entries = _header(source)
    head = _head(source.parent / "config.json")

    def plant(copy: Path) -> tuple[str, ...]:
        data = np.memmap(copy, np.uint8, mode="r+")
        try:
            return plant_slots(_slots(data, entries, head), defect, wanted)
        finally:
            data.flush()

    return plant_file(source, out, plant)


def _header(path: Path) -> dict[str, _Entry]:
    try:
        with path.open("rb") as file:
            (length,) = struct.unpack("<Q", file.read(8))
            if length > path.stat().st_size:
                raise ModelError(f"{path}: its header would be {length} bytes long")
            header = dict(json.loads(file.read(length)))
        base = 8 + length
        return {
            name: _Entry(
                entry["dtype"],
                tuple(entry["shape"]),
                base + entry["data_offsets"][0],
                base + entry["data_offsets"][1],
            )
            for name, entry in header.items()
            if name != "__metadata__"
        }
    except (OSError, ValueError, struct.error, LookupError, TypeError) as error:
        raise ModelError(f"{path}: is no safetensors file: {error}") from None


def _head(config: Path) -> int:
    """Rows of an attention head; 0: nothing says."""
    try:
        values = json.loads(config.read_text(encoding="utf-8"))
        heads = int(values["num_attention_heads"])
        return int(values.get("head_dim") or values["hidden_size"] // heads)
    except (OSError, ValueError, KeyError, TypeError, ZeroDivisionError):
        return 0


def _slots(data: Array, entries: Mapping[str, _Entry], head: int) -> list[Slot]:
    stems: dict[str, dict[str, _Entry]] = {}
    for name, entry in entries.items():
        stem, _, last = name.rpartition(".")
        stems.setdefault(stem, {})[last] = entry
    found = []
    for stem, tensors in stems.items():
        kept = _Tensors(data, tensors)
        if kept.readable():
            turned = head if stem.rpartition(".")[2] in _QUERIES_AND_KEYS else 0
            found.append(
                Slot(
                    name=stem,
                    read=lambda kept=kept, stem=stem: kept.read(stem),  # type: ignore[misc]
                    write=kept.write,
                    head=turned,
                )
            )
    return found


class _Tensors:
    """The tensors of one weight, seen as rows of output channels."""

    def __init__(self, data: Array, tensors: Mapping[str, _Entry]) -> None:
        self._data = data
        self._tensors = tensors
        self.codes = self._first(_CODES)
        self.scales = self._first(_SCALES)
        self.zeros = self._first(_ZEROS)
        self.tensor = self._first(_TENSOR)

    def _first(self, names: tuple[str, ...]) -> str:
        return next((name for name in names if name in self._tensors), "")

    def readable(self) -> bool:
        """Whether it is a matrix whose layout is known here."""
        if not self.codes:
            return False
        entry = self._tensors[self.codes]
        if len(entry.shape) != 2 or entry.dtype not in _TYPES:
            return False
        if self.codes != "qweight":
            return entry.dtype not in ("F32", "I64")
        # GPTQ packs input channels: as many columns as there are scales of a group.
        scales = self._tensors.get(self.scales)
        return (
            entry.dtype == "I32"
            and scales is not None
            and scales.shape[-1] == entry.shape[1]
        )

    def _array(self, name: str) -> Array:
        """A view of the file's bytes."""
        entry = self._tensors[name]
        raw = self._data[entry.start : entry.stop]
        view: Array = raw.view(_TYPES[entry.dtype]).reshape(entry.shape)
        return view

    @property
    def _gptq(self) -> bool:
        return self.codes == "qweight"

    def read(self, name: str) -> StoredWeight:
        """Copies of its parts."""
        bits, meaning = self._kind()
        stored = self._array(self.codes)
        stored = np.ascontiguousarray(stored.T if self._gptq else stored)
        raw = stored.view(np.uint16 if bits == 16 else np.uint8)
        codes = raw.reshape(stored.shape[0], -1)
        scales = None
        if self.scales:
            scales = self._scales(codes.shape[0])
        tensor = None
        if self.tensor:
            tensor = self._array(self.tensor).reshape(-1).astype(np.float32)
        return StoredWeight(
            name=name,
            codes=codes.copy(),
            bits=bits,
            meaning=meaning,
            scales=scales,
            zeros=self._zeros(codes.shape[0]) if self.zeros else None,
            tensor_scale=tensor,
        )

    def _kind(self) -> tuple[int, Meaning]:
        dtype = self._tensors[self.codes].dtype
        if dtype in ("F16", "BF16"):
            return 16, "float"
        if dtype == "I32":
            return 4, "unsigned" if self.zeros else "offset"
        if dtype == "U8":
            return 4, "float"
        return 8, "signed" if dtype == "I8" else "float"

    def _scales(self, rows: int) -> Array:
        array = self._array(self.scales)
        if array.dtype == np.uint8:
            array = array.view(ml_dtypes.float8_e8m0fnu)
        if array.ndim < 2:
            return array.reshape(rows if array.size == rows else 1, -1).copy()
        return np.ascontiguousarray(array.T if self._gptq else array)

    def _zeros(self, rows: int) -> Array:
        """Integers of (rows, groups): packed ones unpacked."""
        array = self._array(self.zeros)
        if array.dtype != np.int32:
            return array.copy()
        # Eight a word along the output channels, in both conventions.
        words = array if self._gptq else array.T
        nibbles = _unpack(words)[:, :rows]
        return np.ascontiguousarray(nibbles.T)

    def write(self, weight: StoredWeight) -> None:
        """Put every part back."""
        target = self._array(self.codes)
        codes = np.ascontiguousarray(weight.codes).view(target.dtype)
        target[...] = codes.T if self._gptq else codes.reshape(target.shape)
        if self.scales:
            assert weight.scales is not None  # sanity check
            place = self._array(self.scales)
            scales = weight.scales.view(place.dtype)
            place[...] = scales.T if self._gptq else scales.reshape(place.shape)
        if self.zeros:
            assert weight.zeros is not None  # sanity check
            place = self._array(self.zeros)
            zeros = weight.zeros
            if place.dtype == np.int32:
                words = _pack(zeros.T)
                zeros = words if self._gptq else words.T
            place[...] = zeros
        if self.tensor:
            assert weight.tensor_scale is not None  # sanity check
            place = self._array(self.tensor)
            place[...] = weight.tensor_scale.reshape(place.shape).astype(place.dtype)


def _unpack(words: Array) -> Array:
    """uint8 nibbles of int32 words along the last axis, the lowest first."""
    raw = np.ascontiguousarray(words).view(np.uint8)
    pair = np.stack([raw & 15, raw >> 4], axis=-1)
    return pair.reshape(words.shape[0], -1)


def _pack(nibbles: Array) -> Array:
    """The inverse; a last word that is not full ends in zeros."""
    padded = np.pad(nibbles.astype(np.uint8), ((0, 0), (0, -nibbles.shape[1] % 8)))
    pair = padded.reshape(padded.shape[0], -1, 2)
    packed = np.ascontiguousarray((pair[..., 0] & 15) | (pair[..., 1] << 4))
    return packed.view(np.int32)
