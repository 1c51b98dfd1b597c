"""An output in the form that a golden keeps, and the same form of another's output."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Final, Literal

import numpy as np

Array = np.ndarray[Any, np.dtype[Any]]

#: Most likely classes kept of a distribution; the others are one class together.
TOP: Final = 32


@dataclass(frozen=True, eq=False)
class CompactOutput:
    """One output of one case.

    Attributes:
        kind: "full", or "top" for probabilities over the last axis.
        shape: of the whole output.
        dtype: name of the output's dtype.
        array: what is kept; for "top" the kept probabilities in descending order and
            last the sum of the others.
        indices: for "top", the classes that are kept.
    """

    kind: Literal["full", "top"]
    shape: tuple[int, ...]
    dtype: str
    array: Array
    indices: Array = field(default_factory=lambda: np.zeros(0, np.int32))

    def project(self, full: Array) -> Array:
        """Another output of the same shape in this one's form, to be compared.

        For "top": its probabilities of this one's classes, and the sum of the others.
        """
        if self.kind == "full":
            return np.asarray(full)
        wide = np.asarray(full, dtype=np.float64)
        picked = np.take_along_axis(wide, self.indices.astype(np.int64), axis=-1)
        rest = wide.sum(axis=-1, keepdims=True) - picked.sum(axis=-1, keepdims=True)
        return np.concatenate([picked, rest], axis=-1)


def compact(array: Array, *, kind: str = "tensor", top: int = TOP) -> CompactOutput:
    """The form that a golden keeps of an output.

    Args:
        array: the whole output.
        kind: what it means; a "distribution" wider than `top` keeps its top classes.
        top: how many.
    """
    whole = np.ascontiguousarray(array)
    if kind != "distribution" or whole.shape[-1] <= top + 1:
        return CompactOutput("full", whole.shape, whole.dtype.name, whole)
    order = np.argsort(-whole.astype(np.float64), axis=-1, kind="stable")[..., :top]
    found = CompactOutput(
        "top",
        whole.shape,
        whole.dtype.name,
        np.zeros(0),
        order.astype(np.int32),
    )
    kept = found.project(whole).astype(np.float32)
    return CompactOutput("top", whole.shape, whole.dtype.name, kept, found.indices)
