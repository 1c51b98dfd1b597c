"""Planting between the operators of an ONNX graph: the engine computes other steps."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import numpy as np

from harness.defects.between.catalogue import Edit, Step, split_factor
from harness.defects.types import Unfit
from harness.schemes.onnx_nodes import Nodes

if TYPE_CHECKING:
    import onnx

    from harness.schemes.onnx_model import QuantizedModel

_STEPS: Final[dict[str, Step]] = {
    "LayerNormalization": "norm",
    "Sqrt": "norm",
    "Softmax": "softmax",
    "Add": "sum",
    **dict.fromkeys(
        (
            "Relu",
            "Gelu",
            "Sigmoid",
            "Tanh",
            "Erf",
            "HardSwish",
            "HardSigmoid",
            "LeakyRelu",
        ),
        "activation",
    ),
}
#: Part of the names of what belongs to a quantized operator itself.
_OWN: Final = "/quantized/"


def plant_steps(built: QuantizedModel, edit: Edit) -> int:
    """Edit every such step of the graph, in place; how many there were.

    Raises:
        Unfit: there is none.
    """
    graph = built.proto.graph
    branches = _floats(built.proto) - _constants(graph)
    operators = set(built.observed) | {y for _, y in built.observed.values()}
    planted = []
    edited = 0
    for node in graph.node:
        inside = any(_OWN in name for name in node.output) or node.name in operators
        step = _STEPS.get(node.op_type)
        if inside or step not in edit.steps:
            planted.append(node)
            continue
        # A sum that gives what is shown of an operator adds its bias.
        bias = any(name in operators for name in node.output)
        if step == "sum" and (bias or not branches.issuperset(node.input)):
            planted.append(node)
            continue
        nodes = Nodes(f"{node.output[0]}/planted")
        if edit.at == "output":
            given = node.output[0]
            node.output[0] = nodes.name("before")
            _change(nodes, node.output[0], edit, output=given)
            planted.extend([node, *nodes.nodes])
        elif edit.at == "epsilon" and node.op_type == "LayerNormalization":
            _larger_epsilon(node, edit.value)
            planted.append(node)
        else:
            index = 1 if edit.at == "second" else 0
            node.input[index] = _change(nodes, node.input[index], edit)
            planted.extend([*nodes.nodes, node])
        graph.initializer.extend(nodes.initializers)
        edited += 1
    if not edited:
        raise Unfit(f"the graph has no {' or '.join(sorted(edit.steps))}")
    copies = []
    for node in planted:
        copy = type(node)()
        copy.CopyFrom(node)
        copies.append(copy)
    del graph.node[:]
    graph.node.extend(copies)
    return edited


def _floats(proto: onnx.ModelProto) -> set[str]:
    """Tensors that are known to be float32."""
    from onnx import TensorProto, shape_inference

    graph = shape_inference.infer_shapes(proto).graph
    known = [*graph.input, *graph.value_info, *graph.output]
    return {v.name for v in known if v.type.tensor_type.elem_type == TensorProto.FLOAT}


def _constants(graph: onnx.GraphProto) -> set[str]:
    """Tensors that no input of the model decides."""
    found = {tensor.name for tensor in graph.initializer}
    for node in graph.node:
        if all(name in found for name in node.input):
            found.update(node.output)
    return found


def _larger_epsilon(node: onnx.NodeProto, by: float) -> None:
    from onnx import helper

    # 1e-5 is what the specification gives a node that says nothing.
    old = 1e-5
    for attribute in list(node.attribute):
        if attribute.name == "epsilon":
            old = attribute.f
            node.attribute.remove(attribute)
    node.attribute.append(helper.make_attribute("epsilon", old + by))


def _change(nodes: Nodes, x: str, edit: Edit, *, output: str = "") -> str:
    def number(value: Any) -> str:
        return nodes.constant(np.array(value, np.float32), "c")

    if edit.how == "scale":
        return nodes.add("Mul", [x, number(edit.value)], output=output)
    if edit.how == "add":
        return nodes.add("Add", [x, number(edit.value)], output=output)
    large = nodes.add("Mul", [x, number(split_factor(int(edit.value)))])
    rest = nodes.add("Sub", [large, x])
    return nodes.add("Sub", [large, rest], output=output)
