"""Stored FP8 codes as plain bytes, decoded by a table: for engines without the types.

The table holds the format's 256 values, so that what is decoded is the same number.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import numpy as np

from harness.models.onnx_operators import attributes
from harness.numerics import FORMATS
from harness.schemes.onnx_activations import FP8_TYPES
from harness.schemes.onnx_nodes import Nodes

if TYPE_CHECKING:
    import onnx

Array = np.ndarray[Any, np.dtype[Any]]

_FORMATS: Final = {element: name for name, element in FP8_TYPES.items()}
_UINT8: Final = 2
_INT32: Final = 6


def without_stored_fp8(model: onnx.ModelProto) -> onnx.ModelProto:
    """A copy whose FP8 initializers are uint8, each read through a table.

    A `Cast` of one becomes a Gather, a `DequantizeLinear` a Gather times the scale.
    Casts to FP8 of what is computed stay as they are.
    """
    import onnx

    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    graph = copy.graph
    stored = {t.name: t for t in graph.initializer if t.data_type in _FORMATS}
    if not stored:
        return copy
    nodes = []
    for node in graph.node:
        name = node.input[0] if node.input else ""
        if name not in stored or node.op_type not in ("Cast", "DequantizeLinear"):
            nodes.append(node)
            continue
        made = _decoding(node, stored[name])
        nodes.extend(made.nodes)
        graph.initializer.extend(made.initializers)
    del graph.node[:]
    graph.node.extend(nodes)
    for name, tensor in stored.items():
        if not any(name in node.input[1:] for node in nodes):
            tensor.data_type = _UINT8
    return copy


def _decoding(node: onnx.NodeProto, tensor: onnx.TensorProto) -> Nodes:
    nodes = Nodes(f"{node.output[0]}/table")
    table = FORMATS[_FORMATS[tensor.data_type]].decoded.astype(np.float32)
    index = nodes.add("Cast", [tensor.name], to=_INT32)
    values = nodes.constant(table, "values")
    if node.op_type == "Cast":
        nodes.add("Gather", [values, index], output=node.output[0])
        return nodes
    decoded = nodes.add("Gather", [values, index])
    scale = node.input[1]
    axis = int(attributes(node).get("axis", 1)) % max(len(tensor.dims), 1)
    # One scale a channel stands along its axis; one for all needs no shape.
    shape = [1] * len(tensor.dims)
    if tensor.dims:
        shape[axis] = -1
    along = nodes.constant(np.array(shape, np.int64), "shape")
    by = nodes.add("Reshape", [scale, along])
    nodes.add("Mul", [decoded, by], output=node.output[0])
    return nodes
