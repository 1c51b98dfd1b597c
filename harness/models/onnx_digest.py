"""Identity of an ONNX model: what it computes, not how its file is laid out."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from harness.models.digest import content_digest

if TYPE_CHECKING:
    import onnx

Array = np.ndarray[Any, np.dtype[Any]]


def model_digest(model: onnx.ModelProto, fixed: Mapping[str, Array]) -> str:
    """`content-v1:<hex>` of a model as it was given.

    Counts: every tensor (initializer or attribute), every node with its attributes,
    inputs and outputs with their types, opsets, and the inputs that are fixed. Does
    not count: names of nodes, documentation, metadata, and where tensors are stored.
    """
    tensors: dict[str, Array] = {f"fixed/{name}": a for name, a in fixed.items()}
    structure = {
        "opsets": sorted([o.domain, o.version] for o in model.opset_import),
        "graph": _graph(model.graph, "graph", tensors),
        "functions": [
            {
                "name": [f.domain, f.name, list(f.input), list(f.output)],
                "nodes": list(_nodes(f.node, f"{f.domain}.{f.name}", tensors)),
            }
            for f in model.functions
        ],
    }
    return content_digest(tensors, extra=structure)


def _graph(graph: onnx.GraphProto, path: str, tensors: dict[str, Array]) -> Any:
    for tensor in graph.initializer:
        tensors[f"{path}/{tensor.name}"] = _array(tensor)
    return {
        "inputs": [_value(value) for value in graph.input],
        "outputs": [_value(value) for value in graph.output],
        "nodes": list(_nodes(graph.node, path, tensors)),
    }


def _nodes(nodes: Any, path: str, tensors: dict[str, Array]) -> Iterator[Any]:
    for index, node in enumerate(nodes):
        place = f"{path}/{index}"
        found = {
            a.name: _attribute(a, f"{place}/{a.name}", tensors) for a in node.attribute
        }
        yield [node.domain, node.op_type, list(node.input), list(node.output), found]


def _attribute(
    attribute: onnx.AttributeProto, path: str, tensors: dict[str, Array]
) -> Any:
    from onnx import helper

    value = helper.get_attribute_value(attribute)
    kind = type(value).__name__
    if kind == "TensorProto":
        tensors[path] = _array(value)
        return "tensor"
    if kind == "GraphProto":
        return _graph(value, path, tensors)
    if isinstance(value, bytes):
        return value.hex()
    if isinstance(value, int | float):
        return value
    # Lists of numbers or strings, and the rare kinds that hold no weights.
    return attribute.SerializeToString(deterministic=True).hex()


def _value(value: onnx.ValueInfoProto) -> Any:
    tensor = value.type.tensor_type
    shape = [d.dim_value for d in tensor.shape.dim]
    return [value.name, tensor.elem_type, shape]


def _array(tensor: onnx.TensorProto) -> Array:
    """Its values; of strings the bytes as they are stored."""
    from onnx import TensorProto, numpy_helper

    if tensor.data_type == TensorProto.STRING:
        return np.frombuffer(b"\0".join(tensor.string_data), np.uint8)
    array: Array = numpy_helper.to_array(tensor)
    return array
