"""A weight as bytes: codes, scales and zero points, each as its file holds it."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any, Final, Literal

import ml_dtypes
import numpy as np

from harness.defects.types import SHARE, Defect, Unfit

Array = np.ndarray[Any, np.dtype[Any]]

#: What a code's bits mean: a sign bit and a magnitude; two's complement; a number that
#: a zero point is taken from, a fixed one (half of the range) or one of its own.
Meaning = Literal["float", "signed", "offset", "unsigned"]

_FLOATS: Final = {
    "float32": np.float32,
    "float16": np.float16,
    "bfloat16": ml_dtypes.bfloat16,
    "fp8_e4m3": ml_dtypes.float8_e4m3fn,
    "fp8_e8m0": ml_dtypes.float8_e8m0fnu,
}
#: Parts of a stored weight, in the order of its fields.
PARTS: Final = ("codes", "scales", "zeros", "tensor_scale")


@dataclass(frozen=True, eq=False, kw_only=True)
class StoredWeight:
    """One weight's bytes, two-dimensional: a row an output channel.

    Attributes:
        name: of the tensor or the operator.
        codes: uint8 (uint16 for 16-bit weights), (rows, bytes); two codes a byte if
            `bits` is 4.
        bits: of a code: 4, 8 or 16.
        meaning: what a code's bits mean.
        scales: (rows, groups) in the type that the file holds; None: there are none.
        zeros: integers or numbers of (rows, groups) that are taken away; None: none.
        tensor_scale: float32, one for the tensor; None: there is none.
    """

    name: str
    codes: Array
    bits: int
    meaning: Meaning
    scales: Array | None = None
    zeros: Array | None = None
    tensor_scale: Array | None = None

    @property
    def rows(self) -> int:
        """Output channels."""
        return int(self.codes.shape[0])

    def unpacked(self) -> Array:
        """uint8 or uint16 codes, one an entry; of a byte's two the low one first."""
        if self.bits != 4:
            return self.codes
        pair = np.stack([self.codes & 15, self.codes >> 4], axis=-1)
        return pair.reshape(self.rows, -1)

    def with_codes(self, codes: Array) -> StoredWeight:
        """The same with other codes, given one an entry."""
        if self.bits != 4:
            return dataclasses.replace(self, codes=codes.astype(self.codes.dtype))
        pair = codes.reshape(self.rows, -1, 2).astype(np.uint8)
        packed = (pair[..., 0] & 15) | (pair[..., 1] << 4)
        return dataclasses.replace(self, codes=packed)


@dataclass(frozen=True, eq=False, kw_only=True)
class Neighbours:
    """What a weight could be confused with, and what its rows are."""

    #: Another weight of the same shape and layout.
    other: StoredWeight | None = None
    #: Rows of an attention head, if the weight makes queries or keys.
    head: int = 0
    seed: int = 0

    def rng(self, weight: StoredWeight) -> np.random.Generator:
        """Draws that depend on the seed and the weight's name alone."""
        name = int.from_bytes(weight.name.encode()[-8:], "little")
        return np.random.default_rng([self.seed, name])


@dataclass(frozen=True, kw_only=True)
class Planted:
    """What was planted in a file."""

    #: Tensors or operators that were changed.
    names: tuple[str, ...]
    #: How many bytes of the file differ.
    bytes_changed: int


def floats(array: Array) -> Array:
    """float32 numbers of scales as stored."""
    return np.asarray(array).astype(np.float32)


def stored_type(name: str) -> Any:
    """NumPy's type of stored scales, by its name here."""
    return np.dtype(_FLOATS[name])


def changed(
    defect: Defect, weight: StoredWeight, near: Neighbours, strength: float
) -> StoredWeight:
    """The weight with the defect; of a part of its rows if the strength is a share.

    Raises:
        Unfit: there is nothing to change.
    """
    with np.errstate(all="ignore"):
        wrong: StoredWeight = defect.change(weight, near, strength)
    if defect.parameter is SHARE and strength < 1:
        # Of the rows that it changes at all: a permutation leaves some in their place.
        moved = np.flatnonzero(_moved(weight, wrong))
        count = max(1, round(strength * moved.size))
        rows = near.rng(weight).permutation(moved)[:count]
        wrong = dataclasses.replace(
            wrong,
            **{name: _some(weight, wrong, name, rows) for name in PARTS},
        )
    if same(weight, wrong):
        raise Unfit("it changes no byte here")
    return wrong


def _moved(right: StoredWeight, wrong: StoredWeight) -> Array:
    """Which rows have other bytes."""
    found: Array = np.zeros(right.rows, bool)
    for name in PARTS:
        before, after = getattr(right, name), getattr(wrong, name)
        if before is None or before.ndim < 2 or before.shape[0] != right.rows:
            continue
        pair = [np.ascontiguousarray(a).view(np.uint8) for a in (before, after)]
        found |= (pair[0] != pair[1]).reshape(right.rows, -1).any(axis=1)
    return found


def _some(right: StoredWeight, wrong: StoredWeight, name: str, rows: Array) -> Any:
    before, after = getattr(right, name), getattr(wrong, name)
    if before is None or before.ndim == 0 or before.shape[0] != right.rows:
        return after
    found = before.copy()
    found[rows] = after[rows]
    return found


def same(first: StoredWeight, second: StoredWeight) -> bool:
    """Whether two weights have the same bytes."""
    return not differing(first, second)


def differing(first: StoredWeight, second: StoredWeight) -> set[str]:
    """Parts that are not the same bytes in both."""
    found = set()
    for name in PARTS:
        a, b = getattr(first, name), getattr(second, name)
        if not _alike(a, b):
            found.add(name)
    return found


def _alike(first: Array | None, second: Array | None) -> bool:
    """The same shape and bytes, or neither there."""
    if first is None or second is None:
        return first is second
    return first.shape == second.shape and first.tobytes() == second.tobytes()
