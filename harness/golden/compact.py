"""An output in the form that a golden keeps, and the same form of another's output."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final, Literal

import numpy as np

from harness.golden.compact_logits import (
    WIDEST_FULL,
    LogitsSupport,
    encode_logits,
)

Array = np.ndarray[Any, np.dtype[Any]]
Kind = Literal["full", "top", "logits"]
KINDS: Final = ("full", "top", "logits")

#: Most likely classes kept of a distribution; the others are one class together.
TOP: Final = 32


@dataclass(frozen=True, eq=False)
class CompactOutput:
    """One output of one case.

    Attributes:
        kind: "full"; "top" for probabilities over the last axis; "logits" for those
            of a language model, see `harness.golden.compact_logits`.
        shape: of the whole output.
        dtype: name of the whole output's dtype.
        tensors: what is kept, by role: "values", and for others than "full" "indices".
        bound: what the kept form can miss, by metric; {} for "full".
    """

    kind: Kind
    shape: tuple[int, ...]
    dtype: str
    tensors: Mapping[str, Array]
    bound: Mapping[str, float] = field(default_factory=dict)

    @property
    def array(self) -> Array:
        """What another output's `project` is compared with, elementwise.

        "full": the output. "top": the kept probabilities in descending order, and
        last the sum of the others. "logits": the kept log-probabilities, and last the
        logarithm of the sum of the others.
        """
        if self.kind == "logits":
            return self.support().array
        return self.tensors["values"]

    @property
    def indices(self) -> Array:
        """The classes that are kept; empty for "full"."""
        return self.tensors.get("indices", np.zeros(0, np.int32))

    @property
    def nbytes(self) -> int:
        """Bytes of what is kept."""
        return sum(array.nbytes for array in self.tensors.values())

    def support(self) -> LogitsSupport:
        """The kept tokens of a "logits" output, for the metrics of language models."""
        return LogitsSupport.decode(self.tensors, self.shape)

    def project(self, full: Array) -> Array:
        """Another output of the same shape in this one's form, to be compared.

        For "top": its probabilities of this one's classes, and the sum of the others.
        """
        if self.kind == "full":
            return np.asarray(full)
        if self.kind == "logits":
            return self.support().project(full)
        return _project_top(full, self.indices)


def compact(
    array: Array,
    *,
    kind: str = "tensor",
    top: int = TOP,
    labels: Array | None = None,
) -> CompactOutput:
    """The form that a golden keeps of an output.

    Args:
        array: the whole output.
        kind: what it means; a "distribution" wider than `top` + 1 keeps its `top`
            most likely classes, "logits" wider than 1,024 at most 400 bytes a row.
        top: how many.
        labels: for "logits", the right token of each row (-1: none), of the shape of
            `array` without its last axis; its probability is then kept too.
    """
    whole = np.asarray(array)
    width = whole.shape[-1] if whole.ndim else 0
    if kind == "logits" and width > WIDEST_FULL and _finite(whole):
        tensors, bound = encode_logits(whole, labels=labels)
        return CompactOutput("logits", whole.shape, whole.dtype.name, tensors, bound)
    if kind != "distribution" or width <= top + 1:
        # A copy in C order: a golden never shares memory with a backend's buffers.
        values = np.array(whole, order="C", copy=True)
        return CompactOutput("full", whole.shape, whole.dtype.name, {"values": values})
    return _compact_top(whole, top)


def _finite(array: Array) -> bool:
    """Whether all is finite, row by row so that no large mask is made."""
    return all(
        bool(np.isfinite(row).all()) for row in array.reshape(-1, array.shape[-1])
    )


def _compact_top(whole: Array, top: int) -> CompactOutput:
    wide = whole.astype(np.float64)
    # Stable, so that equal probabilities keep the lower class.
    order = np.argsort(-wide, axis=-1, kind="stable")[..., :top]
    # Classes fit 16 bits for every vocabulary up to 65,536.
    indices = order.astype(np.uint16 if whole.shape[-1] <= 2**16 else np.int32)
    values = _project_top(whole, indices)
    tail = float(np.abs(values[..., -1]).max(initial=0.0))
    tensors = {"values": values, "indices": indices}
    # KL over the kept classes and the rest is a lower bound; what it misses lies in
    # the tail alone.
    bound = {"tail_mass": tail}
    return CompactOutput("top", whole.shape, whole.dtype.name, tensors, bound)


def _project_top(full: Array, indices: Array) -> Array:
    wide = np.asarray(full).astype(np.float64)
    picked = np.take_along_axis(wide, indices.astype(np.int64), axis=-1)
    rest = wide.sum(axis=-1, keepdims=True) - picked.sum(axis=-1, keepdims=True)
    # float32, as it is kept: the same output again is then equal to the last bit.
    return np.concatenate([picked, rest], axis=-1).astype(np.float32)
