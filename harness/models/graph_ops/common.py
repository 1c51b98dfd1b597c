"""What the operator tables share: their types and the reading of arguments."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, TypeAlias

import torch

T: TypeAlias = torch.Tensor
#: A node's attributes by name, and `_outputs`: how many outputs it has.
Attributes: TypeAlias = Mapping[str, Any]
#: Inputs (None: an absent optional one), attributes, the dtype the module computes in.
Op: TypeAlias = Callable[[Sequence[Any], Attributes, torch.dtype], Any]

#: ONNX element type -> torch dtype of what is not floating.
INTEGERS: Final[Mapping[int, torch.dtype]] = {
    2: torch.uint8,
    3: torch.int8,
    5: torch.int16,
    6: torch.int32,
    7: torch.int64,
    9: torch.bool,
}
#: ONNX FLOAT and DOUBLE: whatever the module computes in.
WIDE: Final = frozenset({1, 11})
#: A cast to one of these rounds to it; the result is computed with as before.
NARROW: Final[Mapping[int, torch.dtype]] = {
    10: torch.float16,
    16: torch.bfloat16,
}


def ints(tensor: T) -> list[int]:
    """The values of an integer tensor."""
    return [int(value) for value in tensor.reshape(-1).tolist()]


def given(x: Sequence[Any], index: int) -> Any:
    """An optional input, or None."""
    return x[index] if len(x) > index else None


def axes_of(x: Sequence[Any], a: Attributes, index: int = 1) -> list[int] | None:
    """Axes given as an input (newer opsets) or an attribute (older ones)."""
    tensor = given(x, index)
    if tensor is not None:
        return ints(tensor)
    return list(a["axes"]) if "axes" in a else None


def unary(function: Callable[[T], T]) -> Op:
    """An entry for a function of one tensor."""
    return lambda x, _a, _d: function(x[0])


def binary(function: Callable[[T, T], T]) -> Op:
    """An entry for a function of two tensors."""
    return lambda x, _a, _d: function(x[0], x[1])


def folded(function: Callable[[T, T], T]) -> Op:
    """An entry for a function of any number of tensors, two at a time."""

    def fold(x: Sequence[Any], _: Attributes, __: torch.dtype) -> T:
        result: T = x[0]
        for other in x[1:]:
            result = function(result, other)
        return result

    return fold
