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


class GraphModule(torch.nn.Module):  # type: ignore[misc]  # torch is untyped for us
    """Runs a normalised ONNX model node by node.

    All floating tensors of the graph are of the module's dtype: FLOAT, FLOAT16 and
    DOUBLE alike. A Cast to FLOAT16 or BFLOAT16 rounds and computes on as before. A
    finite constant stays finite in FP16: beyond its range it becomes +-65504 (the
    -3.4e38 of an attention mask must not turn a row into NaN).

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
            attach(self, entry.name, _layer(entry, initializers))
        absorbed = {entry.output for entry in layers.values()}
        self._steps: list[_Step] = []
        for index, node in enumerate(model.graph.node):
            if index in layers:
                self._steps.append(_Step(node, layers[index]))
            elif node.output[0] not in absorbed:
                # An absorbed node is the Add of a bias, which is inside its Linear.
                self._steps.append(_Step(node))
        self._inputs = [value.name for value in model.graph.input]
        self._outputs = [value.name for value in model.graph.output]
        self._add_constants(initializers)
        _mark_last_uses(self._steps, keep={*self._outputs, *self._constants})
        # Follows .half() and .double(): what floating casts and constants become.
        self.register_buffer("_like", torch.zeros(()), persistent=False)

    def _add_constants(self, initializers: Mapping[str, Array]) -> None:
        needed = {name for step in self._steps for name in step.inputs}
        needed.update(self._outputs)
        self._constants: dict[str, str] = {}
        for name, array in initializers.items():
            if name in needed:
                key = f"_constant_{len(self._constants)}"
                self.register_buffer(key, _tensor(array))
                self._constants[name] = key

    def _apply(self, fn: Any, *arguments: Any, **options: Any) -> GraphModule:
        """Convert or move all tensors, without pushing a constant to infinity."""
        before = {key: getattr(self, key) for key in self._constants.values()}
        super()._apply(fn, *arguments, **options)
        for key, old in before.items():
            new = getattr(self, key)
            if new.dtype != old.dtype:
                limit = torch.finfo(new.dtype).max
                lost = torch.isfinite(old).to(new.device) & torch.isinf(new)
                new[lost] = torch.sign(new[lost]) * limit
        return self

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
                result = self.get_submodule(step.layer)(arguments[0])
            else:
                result = step.run(arguments, like.dtype)
            results = result if isinstance(result, tuple) else (result,)
            values.update(zip(step.outputs, results, strict=False))
            for name in step.done:
                del values[name]
        return {name: values[name] for name in self._outputs}


class _Step:
    """One node, ready to be run.

    Raises:
        UnsupportedError: torch does not run this kind of node here.
    """

    def __init__(self, node: onnx.NodeProto, layer: OnnxOperator | None = None) -> None:
        self.name = node.name
        self.kind = node.op_type
        self.layer = layer.name if layer else ""
        self.inputs = [layer.input] if layer else list(node.input)
        self.outputs = [layer.output] if layer else list(node.output)
        #: Values that no later step reads.
        self.done: list[str] = []
        self.attributes: Attributes = attributes(node) | {"_outputs": len(node.output)}
        known = node.op_type in OPS and node.domain in ("", "ai.onnx")
        if not layer and not known:
            domain = f"{node.domain}." if node.domain else ""
            raise UnsupportedError(
                f"node {node.name!r} is a {domain}{node.op_type}, which the torch "
                "backend does not run; run this model on onnxruntime",
                operator=node.name,
            )

    def run(self, arguments: list[Any], dtype: torch.dtype) -> Any:
        """The node's result.

        Raises:
            UnsupportedError: an attribute that torch does not run here.
        """
        try:
            return OPS[self.kind](arguments, self.attributes, dtype)
        except UnsupportedError as error:
            raise UnsupportedError(
                f"node {self.name!r}: {error}", operator=self.name
            ) from None


def _mark_last_uses(steps: list[_Step], *, keep: set[str]) -> None:
    """Let each step drop what no later one reads, so that memory stays small."""
    seen = {"", *keep}
    for step in reversed(steps):
        step.done = sorted({*step.inputs, *step.outputs} - seen)
        seen.update(step.done)


def attach(module: torch.nn.Module, path: str, layer: torch.nn.Module) -> None:
    """Add a layer under a dotted path, with the containers it needs."""
    *parents, last = path.split(".")
    for part in parents:
        if part not in module._modules:  # noqa: SLF001 - the only way to ask by name
            module.add_module(part, torch.nn.Module())
        module = module.get_submodule(part)
    module.add_module(last, layer)


def _tensor(array: Array) -> torch.Tensor:
    """A constant; floating ones as float32, which bfloat16 and FP8 fit into."""
    # onnx hands out read-only views; torch wants its own memory.
    if array.dtype.kind in "biu":
        return torch.from_numpy(np.array(array))
    return torch.from_numpy(np.array(array, dtype=np.float32))


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
    return layer.eval().requires_grad_(requires_grad=False)
