"""Planting in a GGUF file: which bytes of a block are codes, scales, minimums.

Blocks are those of ggml's `ggml-common.h`. What a super-block packs into six bits a
scale stays as it is; its own float16 scales are the ones that are changed.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np

from harness.defects.stored.slots import Slot, plant_file, plant_slots
from harness.defects.stored.types import Meaning, Planted, StoredWeight, stored_type
from harness.defects.types import Defect, Planting
from harness.errors import MissingExtraError, ModelError

Array = np.ndarray[Any, np.dtype[Any]]


@dataclass(frozen=True)
class _Block:
    """A block type: bytes of each part, as (first, one after the last)."""

    size: int
    bits: int
    meaning: Meaning
    codes: tuple[int, int]
    scales: tuple[int, int] | None = None
    scale_type: str = "float16"
    zeros: tuple[int, int] | None = None


_BLOCKS: Final[Mapping[str, _Block]] = {
    "Q4_0": _Block(18, 4, "offset", (2, 18), (0, 2)),
    "Q4_1": _Block(20, 4, "unsigned", (4, 20), (0, 2), zeros=(2, 4)),
    "Q5_0": _Block(22, 4, "unsigned", (6, 22), (0, 2)),
    "Q5_1": _Block(24, 4, "unsigned", (8, 24), (0, 2), zeros=(2, 4)),
    "Q8_0": _Block(34, 8, "signed", (2, 34), (0, 2)),
    "Q4_K": _Block(144, 4, "unsigned", (16, 144), (0, 2), zeros=(2, 4)),
    "Q5_K": _Block(176, 4, "unsigned", (48, 176), (0, 2), zeros=(2, 4)),
    "Q6_K": _Block(210, 4, "unsigned", (0, 128), (208, 210)),
    "MXFP4": _Block(17, 4, "float", (1, 17), (0, 1), "fp8_e8m0"),
    "NVFP4": _Block(36, 4, "float", (4, 36), (0, 4), "fp8_e4m3"),
    "F16": _Block(2, 16, "float", (0, 2)),
    "BF16": _Block(2, 16, "float", (0, 2)),
}
_QUERIES_AND_KEYS: Final = ("attn_q.weight", "attn_k.weight")


def plant_gguf(
    source: Path,
    out: Path,
    defect: Defect,
    planting: Planting | None = None,
    *,
    among: Collection[str] | None = None,
) -> Planted:
    """A copy of a GGUF file with a defect in its weights' bytes.

    Args:
        source: the file; it stays as it is.
        out: the copy.
        defect: one of stored bytes.
        planting: of which weights (GGUF's names, or a pattern) and how much.
        among: no other weights than these; None: any.

    Raises:
        ModelError: the file cannot be read.
        MissingExtraError: gguf is not installed.
        UnsupportedError: the defect fits no weight.
        UsageError: no weight has that name.
    """
    wanted = planting or Planting(defect=defect.name)
    slots = _located(source)

    def plant(copy: Path) -> tuple[str, ...]:
        data = np.memmap(copy, np.uint8, mode="r+")
        try:
            found = [_slot(data, *entry) for entry in slots]
            return plant_slots(found, defect, wanted, among=among)
        finally:
            data.flush()

    return plant_file(source, out, plant)


def _located(path: Path) -> list[tuple[str, str, int, int, int, int, int]]:
    """Weights: name, type, offset, bytes, rows, rows of a head, offset of its scale."""
    try:
        from gguf import GGUFReader
    except ImportError:
        package = "gguf"
        raise MissingExtraError(package, "gguf") from None
    try:
        reader = GGUFReader(str(path))
    except (OSError, ValueError, KeyError, IndexError) as error:
        raise ModelError(f"{path}: is no GGUF file: {error}") from None
    head = _head(reader)
    offsets = {t.name: int(t.data_offset) for t in reader.tensors}
    found = []
    for tensor in reader.tensors:
        kind = tensor.tensor_type.name
        if kind not in _BLOCKS or len(tensor.shape) < 2:
            continue
        rows = int(np.prod(tensor.shape[1:]))
        turned = head if tensor.name.endswith(_QUERIES_AND_KEYS) else 0
        scale = offsets.get(tensor.name.removesuffix(".weight") + ".scale", 0)
        place = (int(tensor.data_offset), int(tensor.n_bytes))
        found.append((tensor.name, kind, *place, rows, turned, scale))
    return found


def _head(reader: Any) -> int:
    """Rows of an attention head; 0: the file does not say."""

    def number(key: str) -> int:
        field = reader.get_field(key)
        return 0 if field is None else int(field.parts[field.data[0]][0])

    field = reader.get_field("general.architecture")
    name = "" if field is None else bytes(field.parts[field.data[0]]).decode()
    heads = number(f"{name}.attention.head_count")
    width = number(f"{name}.attention.key_length")
    return width or (number(f"{name}.embedding_length") // heads if heads else 0)


def _slot(  # noqa: PLR0917 - a row of the table of tensors
    data: Array,
    name: str,
    kind: str,
    offset: int,
    size: int,
    rows: int,
    head: int,
    scale: int,
) -> Slot:
    block = _BLOCKS[kind]
    blocks = data[offset : offset + size].reshape(rows, -1, block.size)

    def part(where: tuple[int, int] | None, dtype: Any) -> Array | None:
        if where is None:
            return None
        raw = np.ascontiguousarray(blocks[:, :, slice(*where)])
        found: Array = raw.reshape(rows, -1).view(dtype)
        return found

    def read() -> StoredWeight:
        codes = part(block.codes, np.uint16 if block.bits == 16 else np.uint8)
        assert codes is not None  # sanity check
        tensor = data[scale : scale + 4].copy().view(np.float32) if scale else None
        return StoredWeight(
            name=name,
            codes=codes,
            bits=block.bits,
            meaning=block.meaning,
            scales=part(block.scales, stored_type(block.scale_type)),
            zeros=part(block.zeros, np.float16),
            tensor_scale=tensor,
        )

    def write(weight: StoredWeight) -> None:
        for where, array in (
            (block.codes, weight.codes),
            (block.scales, weight.scales),
            (block.zeros, weight.zeros),
        ):
            if where is not None:
                assert array is not None  # sanity check
                raw = np.ascontiguousarray(array).view(np.uint8)
                blocks[:, :, slice(*where)] = raw.reshape(*blocks.shape[:2], -1)
        if scale:
            assert weight.tensor_scale is not None  # sanity check
            data[scale : scale + 4] = weight.tensor_scale.view(np.uint8)

    return Slot(name=name, read=read, write=write, head=head)
