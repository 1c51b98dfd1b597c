"""An ONNX graph in the plain form that the rest of the package works on.

Constants are initializers, conditions that are constant are decided, nodes have
unique names, and the opset is one that Q/DQ of the low formats can be added to.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from harness.errors import ModelError
from harness.models.onnx_operators import attributes, initializers_of, name_nodes

if TYPE_CHECKING:
    import onnx

Array = np.ndarray[Any, np.dtype[Any]]

#: DequantizeLinear has `block_size` since 21; ONNX Runtime 1.31 runs up to IR 11.
OPSET: Final = 21
IR_VERSION: Final = 10
#: Shape arithmetic that is worked out ahead; nothing that computes the model itself.
_FOLDABLE: Final = frozenset(
    {"Cast", "Concat", "Equal", "Gather", "Identity", "Not", "Reshape", "Squeeze"}
    | {"Unsqueeze"}
)


def normalize(
    model: onnx.ModelProto, *, fixed: Mapping[str, Array] | None = None
) -> onnx.ModelProto:
    """The plain form of a model; the argument is left as it is.

    Args:
        model: any valid model.
        fixed: inputs that become constants.

    Raises:
        ModelError: the model cannot be brought to the opset needed.
    """
    import onnx

    plain = onnx.ModelProto()
    plain.CopyFrom(model)
    _constants_to_initializers(plain.graph)
    _fix_inputs(plain, fixed or {})
    _fold(plain)
    plain = _raise_opset(plain)
    _constants_to_initializers(plain.graph)
    del plain.graph.value_info[:]
    plain.ir_version = IR_VERSION
    name_nodes(plain)
    _drop_unused(plain)
    return plain


def _constants_to_initializers(graph: onnx.GraphProto) -> None:
    from onnx import numpy_helper

    kept = []
    for node in graph.node:
        if node.op_type == "Constant" and node.attribute[0].name == "value":
            tensor = numpy_helper.to_array(node.attribute[0].t)
            graph.initializer.append(numpy_helper.from_array(tensor, node.output[0]))
        else:
            kept.append(node)
    del graph.node[:]
    graph.node.extend(kept)
    # A weight that is also listed as an input (IR version 3) is still a weight.
    names = {tensor.name for tensor in graph.initializer}
    inputs = [value for value in graph.input if value.name not in names]
    del graph.input[:]
    graph.input.extend(inputs)


def _fix_inputs(model: onnx.ModelProto, fixed: Mapping[str, Array]) -> None:
    from onnx import numpy_helper

    for name, array in fixed.items():
        model.graph.initializer.append(numpy_helper.from_array(array, name))
    kept = [value for value in model.graph.input if value.name not in fixed]
    del model.graph.input[:]
    model.graph.input.extend(kept)


def _fold(model: onnx.ModelProto) -> None:
    """Work out constant shape arithmetic and decide constant conditions."""
    from onnx import numpy_helper

    graph = model.graph
    known = initializers_of(model)
    pending = list(graph.node)
    kept: list[onnx.NodeProto] = []
    renamed: dict[str, str] = {}
    while pending:
        node = pending.pop(0)
        for index, name in enumerate(node.input):
            node.input[index] = renamed.get(name, name)
        constant = all(name in known for name in node.input if name)
        if node.op_type == "If" and node.input[0] in known:
            branch = _branch(node, bool(known[node.input[0]]))
            _constants_to_initializers(branch)
            for tensor in branch.initializer:
                known[tensor.name] = numpy_helper.to_array(tensor)
                graph.initializer.append(tensor)
            for inner, outer in zip(branch.output, node.output, strict=True):
                renamed[outer] = inner.name
            pending = [*branch.node, *pending]
        elif constant and node.op_type in _FOLDABLE and node.input:
            for name, array in _evaluate(model, node, known).items():
                known[name] = array
                graph.initializer.append(numpy_helper.from_array(array, name))
        else:
            kept.append(node)
    _keep_output_names(graph, kept, renamed)
    del graph.node[:]
    graph.node.extend(kept)


def _branch(node: onnx.NodeProto, condition: bool) -> onnx.GraphProto:
    wanted = "then_branch" if condition else "else_branch"
    return next(a.g for a in node.attribute if a.name == wanted)


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
    back = {
        renamed[output.name]: output.name
        for output in graph.output
        if output.name in renamed
    }
    for node in nodes:
        for index, name in enumerate(node.output):
            node.output[index] = back.get(name, name)
        for index, name in enumerate(node.input):
            node.input[index] = back.get(name, name)


def _raise_opset(model: onnx.ModelProto) -> onnx.ModelProto:
    from onnx import version_converter

    entry = next(o for o in model.opset_import if o.domain in ("", "ai.onnx"))
    if entry.version >= OPSET:
        return model
    try:
        return version_converter.convert_version(model, OPSET)
    except Exception as error:  # noqa: BLE001 - it raises bare RuntimeError and more
        raise ModelError(
            f"opset {entry.version} cannot be raised to {OPSET}: {error}; "
            f"export the model with opset {OPSET}"
        ) from None


def _drop_unused(model: onnx.ModelProto) -> None:
    """Drop nodes and initializers that no output needs."""
    graph = model.graph
    needed = {output.name for output in graph.output}
    kept = []
    for node in reversed(graph.node):
        if any(name in needed for name in node.output):
            kept.append(node)
            needed.update(node.input)
            for value in attributes(node).values():
                if hasattr(value, "node"):
                    needed.update(n for inner in value.node for n in inner.input)
    kept.reverse()
    del graph.node[:]
    graph.node.extend(kept)
    tensors = [tensor for tensor in graph.initializer if tensor.name in needed]
    del graph.initializer[:]
    graph.initializer.extend(tensors)
