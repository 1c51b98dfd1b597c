"""Adding nodes and tensors to a graph under construction."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    import onnx

Array = np.ndarray[Any, np.dtype[Any]]


class Nodes:
    """Nodes and initializers of one operator, with names under its prefix."""

    def __init__(self, prefix: str) -> None:
        self.prefix = prefix
        self.nodes: list[onnx.NodeProto] = []
        self.initializers: list[onnx.TensorProto] = []
        self._count = 0

    def name(self, hint: str) -> str:
        """A fresh tensor name."""
        self._count += 1
        return f"{self.prefix}/{hint}.{self._count}"

    def add(
        self, kind: str, inputs: list[str], *, output: str = "", **attributes: Any
    ) -> str:
        """A node with one output; returns the output's name."""
        from onnx import helper

        domain = attributes.pop("domain", "")
        result = output or self.name(kind)
        self.nodes.append(
            helper.make_node(
                kind,
                inputs,
                [result],
                name=f"{result}/node",
                domain=domain,
                **attributes,
            )
        )
        return result

    def constant(self, array: Array, hint: str) -> str:
        """An initializer of the array's own dtype."""
        from onnx import numpy_helper

        name = self.name(hint)
        self.initializers.append(numpy_helper.from_array(np.asarray(array), name))
        return name

    def raw(
        self, data: bytes, onnx_type: int, shape: tuple[int, ...], hint: str
    ) -> str:
        """An initializer of a type that NumPy does not have."""
        from onnx import helper

        name = self.name(hint)
        self.initializers.append(
            helper.make_tensor(name, onnx_type, shape, data, raw=True)
        )
        return name
