"""An ONNX graph as a `torch.nn.Module`.

Layers with weights become `torch.nn.Linear` and `Conv1d`/`Conv2d` under the operator's
name, so that the torch backend treats an ONNX model as any other module. The module
computes in the dtype it is converted to: `half()`, `float()`, `double()`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from harness.errors import UnsupportedError
from harness.models.graph_ops import OPS, Attributes
from harness.models.onnx_operators import (
    OnnxOperator,
    attributes,
    find_operators,
    initializers_of,
)

if TYPE_CHECKING:
    import onnx

Array = np.ndarray[Any, np.dtype[Any]]


class GraphModule(torch.nn.Module):
    """Runs a normalised ONNX model node by node.

    Args:
        model: a model in the form that `onnx_normalize.normalize` gives.

    Raises:
        UnsupportedError: a node that torch does not run here; names it.
    """

    def __init__(self, model: onnx.ModelProto) -> None:
        super().__init__()
        initializers = initializers_of(model)
        layers = {entry.node: entry for entry in find_operators(model)}
        for entry in layers.values():
            self.add_module(entry.name, _layer(entry, initializers))
        absorbed = {entry.output for entry in layers.values()}
        self._steps: list[_Step] = []
        for index, node in enumerate(model.graph.node):
            if index in layers:
                self._steps.append(_Step(node, layers[index]))
            elif node.output[0] not in absorbed:
                # An absorbed node is the Add of a bias, which is inside its Linear.
                self._steps.append(_Step(node))
        self._add_constants(initializers)
        self._inputs = [value.name for value in model.graph.input]
        self._outputs = [value.name for value in model.graph.output]
        # Follows .half() and .double(): what floating casts and constants become.
        self.register_buffer("_like", torch.zeros(()))

    def _add_constants(self, initializers: Mapping[str, Array]) -> None:
        needed = {name for step in self._steps for name in step.inputs}
        self._constants: dict[str, str] = {}
        for name, array in initializers.items():
            if name in needed:
                key = f"_constant_{len(self._constants)}"
                # onnx hands out read-only views; torch wants its own memory.
                self.register_buffer(key, torch.from_numpy(np.array(array)))
                self._constants[name] = key

    def forward(self, **inputs: torch.Tensor) -> dict[str, torch.Tensor]:
        """Outputs by name; floating inputs are brought to the module's dtype."""
        like = self._like
        assert isinstance(like, torch.Tensor)  # sanity check
        values: dict[str, Any] = {"": None}
        for name, key in self._constants.items():
            values[name] = getattr(self, key)
        for name in self._inputs:
            tensor = inputs[name].to(like.device)
            values[name] = (
                tensor.to(like.dtype) if tensor.is_floating_point() else tensor
            )
        for step in self._steps:
            arguments = [values[name] for name in step.inputs]
            if step.layer:
                result = getattr(self, step.layer)(arguments[0])
            else:
                result = OPS[step.kind](arguments, step.attributes, like.dtype)
            results = result if isinstance(result, tuple) else (result,)
            values.update(zip(step.outputs, results, strict=False))
        return {name: values[name] for name in self._outputs}


class _Step:
    """One node, ready to be run.

    Raises:
        UnsupportedError: torch does not run this kind of node here.
    """

    def __init__(self, node: onnx.NodeProto, layer: OnnxOperator | None = None) -> None:
        self.kind = node.op_type
        self.layer = layer.name if layer else ""
        self.inputs = [layer.input] if layer else list(node.input)
        self.outputs = [layer.output] if layer else list(node.output)
        self.attributes: Attributes = attributes(node) | {"_outputs": len(node.output)}
        known = node.op_type in OPS and node.domain in ("", "ai.onnx")
        if not layer and not known:
            domain = f"{node.domain}." if node.domain else ""
            raise UnsupportedError(
                f"node {node.name!r} is a {domain}{node.op_type}, which the torch "
                "backend does not run; run this model on onnxruntime",
                operator=node.name,
            )


def _layer(entry: OnnxOperator, initializers: Mapping[str, Array]) -> torch.nn.Module:
    """The torch layer of an operator, with its weights."""
    operator = entry.operator(initializers)
    weight = torch.from_numpy(np.array(operator.weight, dtype=np.float32))
    has_bias = operator.bias is not None
    layer: torch.nn.Linear | torch.nn.Conv1d | torch.nn.Conv2d
    if entry.kind == "linear":
        layer = torch.nn.Linear(weight.shape[1], weight.shape[0], bias=has_bias)
    else:
        kind: Any = torch.nn.Conv1d if weight.ndim == 3 else torch.nn.Conv2d
        layer = kind(
            weight.shape[1] * entry.groups,
            weight.shape[0],
            tuple(weight.shape[2:]),
            stride=entry.stride,
            padding=tuple(before for before, _ in entry.padding),
            dilation=entry.dilation,
            groups=entry.groups,
            bias=has_bias,
        )
    layer.weight.data = weight
    if operator.bias is not None:
        assert layer.bias is not None  # sanity check
        layer.bias.data = torch.from_numpy(np.array(operator.bias, dtype=np.float32))
    return layer.eval().requires_grad_(False)
