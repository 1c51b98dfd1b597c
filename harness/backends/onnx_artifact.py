"""What a built ONNX model really holds, read from its bytes.

The decoding nodes of each weight are cut out and run by the engine itself, so that
what is shown is the engine's own decoding, not what the builder meant. Packed INT4 of
MatMulNBits is unpacked here, by its documented layout.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from harness.backends.onnx_deployed_artifact import deployed_artifact
from harness.backends.protocol import Artifact, QuantizedTensor
from harness.models.onnx_operators import attributes
from harness.numerics import decode, find_format
from harness.schemes.checkpoint import is_onnx_file
from harness.schemes.types import Scheme

if TYPE_CHECKING:
    import onnx

    from harness.schemes.onnx_model import QuantizedModel

Array = np.ndarray[Any, np.dtype[Any]]
#: Computes a model without inputs: its bytes -> its outputs by name.
Evaluate = Callable[[bytes], Mapping[str, Array]]
_FLOAT: Final = 1
_UINT8: Final = 2
_FLOAT8: Final = (17, 18, 19, 20)
#: Quark's operators, which round and decode in one.
ROUNDS_AND_DECODES: Final = ("MXQuantizeDequantize", "BFPQuantizeDequantize")
#: Operators that round, beside casts.
_ROUNDING: Final = ("QuantizeLinear", "Round", *ROUNDS_AND_DECODES)

#: ONNX element type of stored codes -> what is shown, and the elements it can hold.
_STORED: Final[Mapping[int, tuple[str, tuple[str, ...]]]] = {
    1: ("float32", ()),
    2: ("uint8, two 4-bit codes a byte", ("fp4_e2m1", "int4", "nf4", "fp8_e1m6")),
    3: ("int8", ("int8",)),
    17: ("float8_e4m3fn", ("fp8_e4m3",)),
    18: ("float8_e4m3fnuz", ("fp8_e4m3fnuz",)),
    19: ("float8_e5m2", ("fp8_e5m2",)),
    20: ("float8_e5m2fnuz", ("fp8_e5m2fnuz",)),
}


def read_artifact(
    data: bytes, built: QuantizedModel, scheme: Scheme, evaluate: Evaluate
) -> Artifact:
    """Weights, their scales and what is left alone, of a serialized model.

    Args:
        data: the model's bytes.
        built: where its operators are.
        scheme: what was asked for.
        evaluate: the engine, for the nodes that decode the weights.
    """
    import onnx

    model = onnx.ModelProto()
    model.ParseFromString(data)
    tensors = {tensor.name: tensor for tensor in model.graph.initializer}
    nodes = {node.name: node for node in model.graph.node}
    producers = {name: node for node in model.graph.node for name in node.output}
    names = [name for name in built.weights.values() if name]
    decoded = evaluate(_decoding_part(model, producers, names)) if names else {}
    if is_onnx_file(scheme.checkpoint):
        return deployed_artifact(built, scheme, decoded)
    stored: dict[str, list[onnx.TensorProto]] = {}
    for key, tensor in tensors.items():
        stored.setdefault(key.rpartition("/quantized/weight_")[0], []).append(tensor)
    weights = {}
    for operator, name in built.weights.items():
        own = stored.get(operator, [])
        codes = next((t for t in own if "/weight_codes" in t.name), None)
        if codes is None or scheme.weights is None:
            continue
        value = decoded[name] if name else _unpack(producers, nodes[operator], tensors)
        rounded = producers[name].op_type if name in producers else ""
        is_float = codes.data_type == _FLOAT and rounded in ROUNDS_AND_DECODES
        wanted = scheme.weights.format
        scales = [_scales(t) for t in own if "/weight_scale" in t.name]
        weights[operator] = QuantizedTensor(
            format=wanted if is_float else _format(codes.data_type, wanted),
            stored_as=f"float32, rounded by {rounded} when it runs"
            if is_float
            else _stored_as(codes.data_type, wanted),
            scales=scales[0] if scales else np.zeros(0, np.float32),
            decoded=value.T if operator in built.transposed and name else value,
            nbytes=sum(len(tensor.raw_data) for tensor in own),
        )
    return Artifact(
        weights=weights,
        activations=[
            n for n in built.observed if _input_is_quantized(producers, nodes, n)
        ],
        untouched=_untouched(nodes, tensors, built),
    )


def _format(data_type: int, wanted: str) -> str:
    """The scheme's format if the element type can hold it, else what is stored."""
    fmt = find_format(wanted)
    shown, holds = _STORED[data_type]
    return wanted if (fmt.element or fmt.name) in holds else shown


def _stored_as(data_type: int, wanted: str) -> str:
    """The element type, for people: 8-bit codes that ONNX has no type for are bytes."""
    plain = data_type == _UINT8 and find_format(wanted).bits == 8
    return "uint8" if plain else _STORED[data_type][0]


def _scales(tensor: onnx.TensorProto) -> Array:
    from onnx import numpy_helper

    if tensor.data_type == 1:
        scales: Array = numpy_helper.to_array(tensor)
        return scales
    # E8M0 has no ONNX type at this opset: its codes are plain bytes.
    stored = "fp8_e8m0" if tensor.data_type == _UINT8 else "fp8_e4m3"
    values: Array = decode(np.frombuffer(tensor.raw_data, dtype=np.uint8), stored)
    return values


def _decoding_part(
    model: onnx.ModelProto,
    producers: Mapping[str, onnx.NodeProto],
    names: Sequence[str],
) -> bytes:
    """A model that computes tensors which depend on initializers alone."""
    import onnx

    needed, waiting = set(), list(names)
    while waiting:
        name = waiting.pop()
        if name in needed:
            continue
        needed.add(name)
        if name in producers:
            waiting.extend(producers[name].input)
    part = onnx.ModelProto()
    part.CopyFrom(model)
    graph = part.graph
    del graph.input[:]
    del graph.output[:]
    nodes = [node for node in model.graph.node if node.output[0] in needed]
    tensors = [tensor for tensor in model.graph.initializer if tensor.name in needed]
    del graph.node[:]
    del graph.initializer[:]
    graph.node.extend(nodes)
    graph.initializer.extend(tensors)
    graph.output.extend(
        onnx.helper.make_tensor_value_info(name, _FLOAT, None) for name in names
    )
    data: bytes = part.SerializeToString()
    return data


def _unpack(
    producers: Mapping[str, onnx.NodeProto],
    node: onnx.NodeProto,
    tensors: Mapping[str, onnx.TensorProto],
) -> Array:
    """float32 (out, in) of a MatMulNBits: (code - 8) * scale, low nibble first."""
    from onnx import numpy_helper

    packed_node = producers[node.input[0]]
    found = attributes(packed_node)
    packed = numpy_helper.to_array(tensors[packed_node.input[1]])
    scales = numpy_helper.to_array(tensors[packed_node.input[2]])
    rows, length = int(found["N"]), int(found["K"])
    codes = np.stack([packed & 15, packed >> 4], axis=-1).reshape(rows, -1)
    by = np.repeat(scales.reshape(rows, -1), int(found["block_size"]), axis=1)
    values = (codes.astype(np.float32) - np.float32(8)) * by
    return np.ascontiguousarray(values[:, :length])


def _input_is_quantized(
    producers: Mapping[str, onnx.NodeProto],
    nodes: Mapping[str, onnx.NodeProto],
    operator: str,
) -> bool:
    """Whether a rounding stands between the operator and whatever gives its input.

    Walks back through the operator's own quantization nodes only: a rounding further
    up belongs to another operator.
    """
    node = nodes[operator]
    if node.op_type == "Identity":
        node = producers[node.input[0]]
    waiting = [node.input[0]]
    while waiting:
        name = waiting.pop()
        if not name.startswith(f"{operator}/quantized/") or name not in producers:
            continue
        found = producers[name]
        to_float8 = found.op_type == "Cast" and attributes(found)["to"] in _FLOAT8
        if found.op_type in _ROUNDING or to_float8:
            return True
        waiting.extend(found.input)
    return False


def _untouched(
    nodes: Mapping[str, onnx.NodeProto],
    tensors: Mapping[str, onnx.TensorProto],
    built: QuantizedModel,
) -> dict[str, Array]:
    """Weights of operators that the scheme leaves alone, in torch's layout."""
    from onnx import numpy_helper

    found = {}
    for operator, plan in built.plans.items():
        if plan.weights:
            continue
        tensor = tensors.get(nodes[operator].input[1])
        if tensor is not None:
            array = numpy_helper.to_array(tensor)
            found[operator] = array.T if operator in built.transposed else array
    return found
