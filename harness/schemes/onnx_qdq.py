"""The ONNX model that a scheme makes of a reference."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Protocol

from harness.errors import UnsupportedError
from harness.models.onnx_operators import (
    OnnxOperator,
    find_operators,
    initializers_of,
)
from harness.models.types import Operator
from harness.schemes.apply import OperatorPlan, plan_one
from harness.schemes.checkpoint import is_onnx_file
from harness.schemes.onnx_activations import quantize_input, round_output
from harness.schemes.onnx_deployed import deployed
from harness.schemes.onnx_model import QuantizedModel
from harness.schemes.onnx_nodes import Nodes
from harness.schemes.onnx_weights import int4_matmul, store_weight
from harness.schemes.types import Scheme

if TYPE_CHECKING:
    import onnx


#: Adds nodes that round an operator's input; returns the decoded tensor's name.
QuantizeInput = Callable[[Nodes, Operator, Scheme, str], str]


class StoreWeight(Protocol):
    """Adds a weight and the nodes that decode it; returns the decoded tensor's name."""

    def __call__(
        self, nodes: Nodes, operator: Operator, scheme: Scheme, *, transposed: bool
    ) -> str:
        """`transposed`: whether the consumer wants (in, out)."""
        ...


def build(
    model: onnx.ModelProto,
    scheme: Scheme,
    *,
    contributed: bool = True,
    quantize_input: QuantizeInput = quantize_input,
    store_weight: StoreWeight = store_weight,
) -> QuantizedModel:
    """Quantize a model (changed in place) as the scheme says.

    Args:
        model: in normal form, its operators named (`Model.onnx()`).
        scheme: calibrated, when its activations are static.
        contributed: whether Microsoft's operators may stand for a scheme; False: only
            those of the ONNX specification.
        quantize_input: adds what rounds an operator's input; an engine may have
            operators of its own for it.
        store_weight: adds a weight; the same.

    Raises:
        UnsupportedError: a format that ONNX Runtime's CPU provider cannot express.
        ModelError: the scheme is a quantized file, which is not this model's.
    """
    if is_onnx_file(scheme.checkpoint):
        return deployed(model, scheme)
    graph = model.graph
    initializers = initializers_of(model)
    observed: dict[str, tuple[str, str]] = {}
    weights: dict[str, str] = {}
    plans: dict[str, OperatorPlan] = {}
    before: dict[int, list[onnx.NodeProto]] = {}
    after: dict[int, list[onnx.NodeProto]] = {}
    used = False
    entries = find_operators(model)
    for entry in entries:
        operator = entry.operator(initializers)
        plan = plans[entry.name] = plan_one(scheme, operator)
        observed[entry.name] = (entry.input, entry.output)
        if not (plan.weights or plan.activations):
            continue
        nodes = Nodes(f"{entry.name}/quantized")
        node = graph.node[entry.node]
        packed = contributed and _packs(node, entry, scheme)
        x = entry.input
        if plan.activations:
            x = quantize_input(nodes, operator, scheme, x)
        if plan.weights and packed:
            _pack(node, operator, scheme, nodes, x)
        else:
            node.input[0] = x
        if plan.weights and not packed:
            node.input[1] = store_weight(
                nodes, operator, scheme, transposed=entry.transposed
            )
        used |= packed
        weights[entry.name] = (
            ""
            if graph.node[entry.node].op_type == "Identity"
            else graph.node[entry.node].input[1]
        )
        before[entry.node] = nodes.nodes
        graph.initializer.extend(nodes.initializers)
        if plan.outputs:
            rounding = Nodes(f"{entry.name}/rounded")
            place = _rename(graph, entry.output, raw := rounding.name("result"))
            round_output(rounding, operator, scheme, raw, entry.output)
            after[place] = rounding.nodes
            graph.initializer.extend(rounding.initializers)
    _interleave(graph, before, after)
    _drop_unused_initializers(graph)
    if used:
        model.opset_import.add(domain="com.microsoft", version=1)
    transposed = frozenset(entry.name for entry in entries if entry.transposed)
    return QuantizedModel(model, observed, weights, plans, transposed)


def expressible(
    operators: Sequence[Operator],
    scheme: Scheme,
    quantize: QuantizeInput | None = None,
) -> dict[str, str]:
    """Operators that these nodes cannot express under a scheme, and why."""
    quantize = quantize or quantize_input
    reasons: dict[str, str] = {}
    if is_onnx_file(scheme.checkpoint):
        # It is run as it is; whether an engine has its operators shows when it loads.
        return reasons
    for operator in operators:
        # Kept operators keep their names, so the plan is the whole operator's.
        plan = plan_one(scheme, operator)
        small = dataclasses.replace(operator, weight=operator.weight[:1], bias=None)
        if scheme.checkpoint:
            small = operator
        ready = dataclasses.replace(scheme, calibration={operator.name: 1.0})
        nodes = Nodes(operator.name)
        try:
            if plan.activations:
                quantize(nodes, operator, ready, "x")
            if plan.weights:
                store_weight(nodes, small, scheme, transposed=False)
        except UnsupportedError as error:
            reasons[operator.name] = str(error)
    return reasons


def _rename(graph: onnx.GraphProto, tensor: str, to: str) -> int:
    """Let the node that gives a tensor give it under another name; returns its index.

    Whoever reads the tensor then reads what takes its name.
    """
    for index, node in enumerate(graph.node):
        for place, name in enumerate(node.output):
            if name == tensor:
                node.output[place] = to
                return index
    raise AssertionError(f"no node gives {tensor}")


def _packs(node: onnx.NodeProto, entry: OnnxOperator, scheme: Scheme) -> bool:
    """Whether MatMulNBits stands for this operator."""
    int4 = scheme.weights is not None and scheme.weights.format == "int4"
    return int4 and entry.kind == "linear" and node.op_type == "MatMul"


def _pack(
    node: onnx.NodeProto, operator: Operator, scheme: Scheme, nodes: Nodes, x: str
) -> None:
    """Let MatMulNBits, which holds 4-bit codes, stand for a node."""
    # The node becomes a name for what MatMulNBits gives.
    product = nodes.name("product")
    int4_matmul(nodes, operator, scheme, x, product)
    node.op_type = "Identity"
    del node.input[:]
    node.input.append(product)


def _interleave(
    graph: onnx.GraphProto,
    before: Mapping[int, list[onnx.NodeProto]],
    after: Mapping[int, list[onnx.NodeProto]],
) -> None:
    """Put new nodes just before or after others, so the order stays topological."""
    ordered = []
    for index, node in enumerate(graph.node):
        ordered.extend(before.get(index, []))
        ordered.append(node)
        ordered.extend(after.get(index, []))
    del graph.node[:]
    graph.node.extend(ordered)


def _drop_unused_initializers(graph: onnx.GraphProto) -> None:
    """The original weights are gone: nothing can fall back to them."""
    from harness.models.onnx_normalize import reads

    used = {name for node in graph.node for name in reads(node)}
    used |= {output.name for output in graph.output}
    kept = [tensor for tensor in graph.initializer if tensor.name in used]
    del graph.initializer[:]
    graph.initializer.extend(kept)
