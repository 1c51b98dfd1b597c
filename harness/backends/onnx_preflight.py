"""Which kinds of operator an ONNX model has, before anything is compiled."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from harness.backends.protocol import Finding

if TYPE_CHECKING:
    import onnx


@dataclass(frozen=True)
class Kind:
    """An operator as a backend's registry knows it."""

    #: "" is ONNX's own.
    domain: str
    name: str
    #: Opset of its domain in the model.
    version: int
    #: Element types of its inputs, "" where inference gave none.
    types: tuple[str, ...] = ()
    #: Whether ONNX defines it by other operators.
    is_function: bool = False

    @property
    def title(self) -> str:
        """For people: the domain where it is not ONNX's own."""
        return f"{self.domain}.{self.name}" if self.domain else self.name


def census(model: onnx.ModelProto) -> dict[Kind, int]:
    """Kinds of operator and how many nodes, those of subgraphs included."""
    types = _types(model)
    opsets = {_domain(entry.domain): entry.version for entry in model.opset_import}
    counts: Counter[Kind] = Counter()
    for node in _nodes(model.graph):
        domain = _domain(node.domain)
        version = opsets.get(domain, 1)
        kind = Kind(
            domain,
            node.op_type,
            version,
            tuple(types.get(name, "") for name in node.input[:1]),
            _is_function(domain, node.op_type, version),
        )
        counts[kind] += 1
    return dict(counts)


def dynamic_inputs(
    model: onnx.ModelProto, batch_axes: Mapping[str, int]
) -> list[Finding]:
    """Inputs with an axis, beside the batch, whose length is not in the model."""
    found = []
    for value in model.graph.input:
        batch = batch_axes.get(value.name, 0)
        free = [
            axis.dim_param or "?"
            for index, axis in enumerate(value.type.tensor_type.shape.dim)
            if index != batch and not axis.dim_value
        ]
        if free:
            detail = f"axes {', '.join(free)} have any length"
            found.append(Finding("dynamic", value.name, 1, detail))
    return found


def _domain(name: str) -> str:
    return "" if name == "ai.onnx" else name


def _nodes(graph: onnx.GraphProto) -> list[onnx.NodeProto]:
    found = []
    for node in graph.node:
        found.append(node)
        for attribute in node.attribute:
            if attribute.HasField("g"):
                found.extend(_nodes(attribute.g))
            for inner in attribute.graphs:
                found.extend(_nodes(inner))
    return found


def _types(model: onnx.ModelProto) -> dict[str, str]:
    """Tensor -> element type, as inference finds it; "float" is float32."""
    import onnx

    inferred = onnx.shape_inference.infer_shapes(model, data_prop=False).graph
    found = {
        value.name: value.type.tensor_type.elem_type
        for value in [*inferred.input, *inferred.output, *inferred.value_info]
    }
    found |= {tensor.name: tensor.data_type for tensor in inferred.initializer}
    return {
        name: onnx.TensorProto.DataType.Name(kind).lower()
        for name, kind in found.items()
        if kind
    }


def _is_function(domain: str, name: str, version: int) -> bool:
    import onnx

    try:
        schema = onnx.defs.get_schema(name, version, domain)
    except onnx.defs.SchemaError:
        return False
    return bool(schema.has_function or schema.has_context_dependent_function)
