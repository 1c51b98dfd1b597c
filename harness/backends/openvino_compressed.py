"""Weights of 4 bits in OpenVINO's own types, as its weight compression writes them.

A graph of ONNX decodes NF4, FP4 and INT4 by tables, with nodes that every engine has.
Whoever deploys with OpenVINO has constants of these types instead, which the kernels
decode as they multiply. Codes and scales are the graph's own, byte for byte.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from harness.errors import BackendError
from harness.numerics import find_format
from harness.schemes.types import Scheme

if TYPE_CHECKING:
    import onnx
    import openvino

    from harness.schemes.onnx_model import QuantizedModel

Array = np.ndarray[Any, np.dtype[Any]]

#: Elements and scales of blocks -> OpenVINO's name of the type.
TYPES: Final[Mapping[str, str]] = {
    "int4": "i4",
    "nf4": "nf4",
    "fp4_e2m1": "f4e2m1",
    "fp8_e4m3": "f8e4m3",
    "fp8_e5m2": "f8e5m2",
    "fp8_e8m0": "f8e8m0",
}


def reason_against(scheme: Scheme) -> str:
    """Why no weight of a scheme is a block of OpenVINO's types; "" if they are."""
    tensor = scheme.weights
    if scheme.checkpoint:
        return "stored checkpoints run on `openvino`"
    if scheme.activations is not None:
        return "inputs are quantized, which `openvino` runs: weights alone here"
    if tensor is None or tensor.granularity != "block":
        return "no weights in blocks: `openvino` holds the others in its own types"
    fmt = find_format(tensor.format)
    missing = [
        name
        for name in (fmt.element or fmt.name, fmt.scale)
        if name and name not in TYPES
    ]
    return f"OpenVINO has no type for {', '.join(missing)}" if missing else ""


class Compression:
    """Puts constants of OpenVINO's types where a graph decodes blocks.

    Args:
        built: the graph, its initializers named by operator.
        scheme: what its weights are.
    """

    def __init__(self, built: QuantizedModel, scheme: Scheme) -> None:
        assert scheme.weights is not None  # sanity check
        fmt = find_format(scheme.weights.format)
        self._built = built
        self.element = TYPES[fmt.element or fmt.name]
        self._scale = TYPES.get(fmt.scale, "")
        self._bits = find_format(fmt.element or fmt.name).bits
        self._read = {name for node in built.proto.graph.node for name in node.input}
        self._stored: dict[str, dict[str, onnx.TensorProto]] = {}
        for tensor in built.proto.graph.initializer:
            operator, _, name = tensor.name.rpartition("/quantized/")
            if operator:
                own = self._stored.setdefault(operator, {})
                own[name.partition(".")[0]] = tensor

    def __call__(self, model: openvino.Model) -> None:
        """Change a model that was read from the graph, or from a part of it.

        Raises:
            BackendError: a weight was read in another way than by its tensor's name.
        """
        # What is looked up must be held: an output is its node's.
        nodes = {
            name: output
            for node in model.get_ordered_ops()
            for output in node.outputs()
            for name in output.get_names()
        }
        for operator, tensor in self._built.weights.items():
            if not tensor.startswith(f"{operator}/quantized/"):
                # A defect was planted: the weight is another tensor.
                continue
            if tensor not in nodes:
                if tensor not in self._read:
                    continue
                raise BackendError(
                    f"openvino: weight of {operator}={tensor!r}, but should be a "
                    "tensor of the model that was read"
                )
            old = nodes[tensor]
            new = self._decoded(operator, list(old.get_shape())).output(0)
            for reader in old.get_target_inputs():
                reader.replace_source_output(new)
            new.set_names({tensor})

    def _decoded(self, operator: str, shape: list[int]) -> openvino.Node:
        """(out, blocks, ..., size) of codes times scales, as the weight is read."""
        import openvino.opset13 as ops

        stored = self._stored[operator]
        codes, scales = stored["weight_codes"], stored["weight_scale"]
        dims = list(codes.dims)
        if self._bits == 4:
            dims[-1] *= 2
        weight = ops.convert(_constant(self.element, dims, codes.raw_data), "f32")
        scale = _constant(self._scale or "f32", list(scales.dims), scales.raw_data)
        if self._scale:
            scale = ops.convert(scale, "f32")
        if "weight_tensor_scale" in stored:
            whole = stored["weight_tensor_scale"]
            scale = ops.multiply(scale, _constant("f32", [], whole.raw_data))
        weight = ops.multiply(weight, scale)
        out, count, *rest, size = dims
        if rest:
            order = [0, 1, 2 + len(rest), *range(2, 2 + len(rest))]
            weight = ops.transpose(weight, np.array(order))
        joined = np.array([out, count * size, *rest])
        weight = ops.reshape(weight, joined, special_zero=False)
        transposed = operator in self._built.transposed
        length = shape[0] if transposed else shape[1]
        if count * size != length:
            cut = [np.array([n]) for n in (0, length, 1, 1)]
            weight = ops.slice(weight, *cut)
        return ops.transpose(weight, np.array([1, 0])) if transposed else weight


def _constant(kind: str, shape: list[int], data: bytes) -> openvino.Node:
    import openvino

    tensor = openvino.Tensor(getattr(openvino.Type, kind), openvino.Shape(shape))
    held = tensor.data.reshape(-1).view(np.uint8)
    held[:] = np.frombuffer(data, np.uint8)
    return openvino.op.Constant(tensor)
