"""Constants of an ONNX graph: made initializers, worked out, conditions decided."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from harness.models.onnx_operators import initializers_of

if TYPE_CHECKING:
    import onnx

Array = np.ndarray[Any, np.dtype[Any]]

#: Change only the layout or type of a constant, such as a weight: of any size.
_LAYOUT: Final = frozenset(
    {"Cast", "Flatten", "Identity", "Reshape", "Squeeze", "Transpose", "Unsqueeze"}
)
#: Shape arithmetic: worked out where it stays small.
_ARITHMETIC: Final = frozenset(
    {"Add", "And", "Concat", "ConstantOfShape", "Div", "Equal", "Expand", "Gather"}
    | {"Greater", "Less", "Mul", "Neg", "Not", "Or", "Range", "ReduceProd", "Shape"}
    | {"Slice", "Sqrt", "Sub", "Where"}
)
_SMALL: Final = 4096


def constants_to_initializers(graph: onnx.GraphProto) -> None:
    """Make every Constant node of a graph an initializer, in place."""
    kept = []
    for node in graph.node:
        tensor = _constant(node) if node.op_type == "Constant" else None
        if tensor is None:
            kept.append(node)
        else:
            tensor.name = node.output[0]
            graph.initializer.append(tensor)
    del graph.node[:]
    graph.node.extend(kept)
    # A weight that is also listed as an input (IR version 3) is still a weight.
    names = {tensor.name for tensor in graph.initializer}
    inputs = [value for value in graph.input if value.name not in names]
    del graph.input[:]
    graph.input.extend(inputs)


def _constant(node: onnx.NodeProto) -> onnx.TensorProto | None:
    """The value of a Constant node; None for strings and sparse tensors."""
    import onnx
    from onnx import numpy_helper

    attribute = node.attribute[0]
    tensor = onnx.TensorProto()
    if attribute.name == "value":
        tensor.CopyFrom(attribute.t)
        return tensor
    dtypes = {"int": np.int64, "float": np.float32}
    kind = attribute.name.removeprefix("value_").removesuffix("s")
    if kind not in dtypes:
        return None
    value = onnx.helper.get_attribute_value(attribute)
    return numpy_helper.from_array(np.array(value, dtypes[kind]))


def fold(model: onnx.ModelProto) -> None:
    """Work out constant shape arithmetic and decide constant conditions, in place."""
    from onnx import numpy_helper

    graph = model.graph
    known = initializers_of(model)
    outputs = {output.name for output in graph.output}
    pending = list(reversed(graph.node))
    kept: list[onnx.NodeProto] = []
    renamed: dict[str, str] = {}
    while pending:
        node = pending.pop()
        _rename(node, renamed)
        if node.op_type == "If" and node.input[0] in known:
            branch = _branch(node, bool(known[node.input[0]]))
            constants_to_initializers(branch)
            for tensor in branch.initializer:
                known[tensor.name] = numpy_helper.to_array(tensor)
                graph.initializer.append(tensor)
            for inner, outer in zip(branch.output, node.output, strict=True):
                renamed[outer] = inner.name
            pending.extend(reversed(branch.node))
        elif _foldable(node, known) and not outputs.intersection(node.output):
            for name, array in _evaluate(model, node, known).items():
                known[name] = array
                graph.initializer.append(numpy_helper.from_array(array, name))
        else:
            kept.append(node)
    _keep_output_names(graph, kept, renamed)
    del graph.node[:]
    graph.node.extend(kept)


def _rename(node: onnx.NodeProto, renamed: Mapping[str, str]) -> None:
    """Read what a decided condition gave by the name it has inside the branch."""
    for index, name in enumerate(node.input):
        node.input[index] = renamed.get(name, name)
    for attribute in node.attribute:
        for inner in (attribute.g, *attribute.graphs):
            for child in inner.node:
                _rename(child, renamed)
            for value in inner.output:
                value.name = renamed.get(value.name, value.name)


def _branch(node: onnx.NodeProto, condition: bool) -> onnx.GraphProto:
    wanted = "then_branch" if condition else "else_branch"
    return next(a.g for a in node.attribute if a.name == wanted)


def _foldable(node: onnx.NodeProto, known: Mapping[str, Array]) -> bool:
    if node.domain not in ("", "ai.onnx") or not node.input:
        return False
    if not all(name in known for name in node.input if name):
        return False
    if node.op_type in _LAYOUT:
        return True
    small = all(known[name].size <= _SMALL for name in node.input if name)
    if node.op_type in ("ConstantOfShape", "Expand"):
        small &= int(np.prod(known[node.input[-1]])) <= _SMALL
    return node.op_type in _ARITHMETIC and small


def _evaluate(
    model: onnx.ModelProto, node: onnx.NodeProto, known: Mapping[str, Array]
) -> dict[str, Array]:
    from onnx.reference import ReferenceEvaluator

    opset = next(o.version for o in model.opset_import if o.domain in ("", "ai.onnx"))
    evaluator = ReferenceEvaluator(node, opsets={"": opset})
    feeds = {name: known[name] for name in node.input if name}
    values = evaluator.run(None, feeds)
    return {n: np.asarray(v) for n, v in zip(node.output, values, strict=True)}


def _keep_output_names(
    graph: onnx.GraphProto, nodes: list[onnx.NodeProto], renamed: Mapping[str, str]
) -> None:
    """A graph output that a decided condition gave keeps its name."""
    from onnx import helper

    made = {name for node in nodes for name in node.output}
    back = {
        renamed[output.name]: output.name
        for output in graph.output
        if renamed.get(output.name) in made
    }
    for node in nodes:
        for index, name in enumerate(node.output):
            node.output[index] = back.get(name, name)
        _rename(node, back)
    for output in graph.output:
        inner = renamed.get(output.name)
        if inner is not None and inner not in made:
            # The branch only passed on what is a constant or an input.
            nodes.append(helper.make_node("Identity", [inner], [output.name]))
