"""What llama.cpp multiplies: the input and the output of a product, as it runs."""

from __future__ import annotations

import ctypes
from collections import Counter
from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from harness.backends.llama_cpp_library import library
from harness.backends.llama_cpp_types import Tensor
from harness.errors import UnsupportedError

Array = np.ndarray[Any, np.dtype[Any]]

_PRODUCT: Final = b"MUL_MAT"
_F32: Final = 0


@dataclass(frozen=True)
class Product:
    """A node of the graph that multiplies a named weight."""

    #: llama.cpp's name of the weight.
    weight: str
    node: Tensor

    def arrays(self) -> tuple[Array, Array]:
        """Its input (rows, in) and output (rows, out), float32, copied."""
        return _matrix(_tensor(self.node.src[1])), _matrix(self.node)


class Census:
    """Counts, of one run of a graph, what multiplies what; stops nothing.

    Attributes:
        products: type of a named weight, as the kernel gets it -> how many.
        flash: nodes of fused attention.
    """

    def __init__(self) -> None:
        self.products: Counter[str] = Counter()
        self.flash = 0

    def __call__(self, address: int, asked: bool) -> bool:
        """Note the node; it is not wanted after it ran."""
        found = product(address)
        if found is not None:
            kind = library().c.ggml_type_name(_tensor(found.node.src[0]).type)
            self.products[kind.decode()] += 1
        self.flash += library().c.ggml_op_desc(address) == b"FLASH_ATTN_EXT"
        return not asked


def product(address: int) -> Product | None:
    """The node at an address, where it multiplies a weight that has a name.

    Raises:
        UnsupportedError: the structure is laid out otherwise than is known here.
    """
    c = library().c
    if c.ggml_op_desc(address) != _PRODUCT:
        return None
    node = _tensor(address)
    if node.name != c.ggml_get_name(address):
        raise UnsupportedError(
            "llama.cpp lays its tensors out otherwise than this adapter knows: "
            f"name={node.name!r}, but should be {c.ggml_get_name(address)!r}"
        )
    name = _tensor(node.src[0]).name.decode()
    return Product(name, node) if name.endswith(".weight") else None


def _tensor(address: int) -> Tensor:
    return Tensor.from_address(address)


def _matrix(tensor: Tensor) -> Array:
    """A tensor's rows, whatever its strides are."""
    columns, rows, *outer = tensor.ne
    if tensor.type != _F32 or any(size != 1 for size in outer):
        kind = library().c.ggml_type_name(tensor.type)
        raise UnsupportedError(
            f"llama.cpp's {tensor.name!r} is {kind!r} of shape {list(tensor.ne)}, but "
            "should be a matrix of f32"
        )
    if not rows:
        return np.empty((0, columns), np.float32)
    step = tensor.nb[1]
    data = (ctypes.c_byte * (step * (rows - 1) + 4 * columns)).from_address(tensor.data)
    flat = np.frombuffer(data, np.float32)
    view = np.lib.stride_tricks.as_strided(flat, (rows, columns), (step, tensor.nb[0]))
    return np.array(view)
