"""A quantized ONNX file, as ONNX Runtime's quantizer, NNCF and their like write it.

Read are the forms that engines know: `DequantizeLinear` of stored codes, or of what
`QuantizeLinear` makes of a constant, before a MatMul, Gemm or Conv, with or without
both of its input; and `MatMulInteger` or `ConvInteger` after `DynamicQuantizeLinear`.
What decodes codes in another way is an error: it would pass for a weight that was left
alone.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from harness.errors import ModelError
from harness.models.checkpoint.onnx_codes import DecodedBy, quantized_of
from harness.models.checkpoint.onnx_constants import evaluated
from harness.models.checkpoint.onnx_load import load_file
from harness.models.checkpoint.onnx_rounded import rounded_codes
from harness.models.onnx_operators import attributes
from harness.numerics import Quantized

if TYPE_CHECKING:
    import onnx

Array = np.ndarray[Any, np.dtype[Any]]

#: Kind of node -> index of its bias among its inputs.
_PRODUCTS: Final = {"MatMul": None, "Gemm": 2, "Conv": 2}
_INTEGER: Final = ("MatMulInteger", "ConvInteger")
#: Kinds of node that hand on what they get, beside those that decode.
_VIEWS: Final = frozenset({"Cast", "Reshape", "Transpose", "Mul", "Sub", "Identity"})
_DECODES: Final = frozenset(
    {"DequantizeLinear", "MatMulNBits", "DequantizeBFP"}
    # AMD Quark's, the last two of which round and decode in one.
    | {"ExtendedDequantizeLinear", "MXQuantizeDequantize", "BFPQuantizeDequantize"}
)
#: What ONNX Runtime's quantizer appends to the name of a node that it replaces: all of
#: them, and a Gemm's as well.
_APPENDED: Final = ("_quant", "_MatMul")


@dataclass(frozen=True, eq=False)
class StoredInput:
    """How a layer's input is rounded.

    Attributes:
        format: a name in `numerics.FORMATS`.
        scale: float32 value > 0; None: found anew in every run.
        zero_point: of an integer format; None: of a float, or found anew.
    """

    format: str
    scale: np.float32 | None = None
    zero_point: int | None = None


@dataclass(frozen=True, eq=False)
class StoredNode:
    """One MatMul, Gemm or Conv whose weight is stored as codes.

    Attributes:
        name: the node's, without what the quantizer appended.
        weight: (out, in) or (out, in / groups, *kernel).
        inputs: how its input is rounded; None: it is left alone.
        bias: float32 (out,) as stored; None: what `result` shows has none.
        x: tensor of its input before it is rounded.
        result: tensor of its output, bias included where nothing stands between.
        decoded: tensor of the decoded weight; "": codes are multiplied.
        transposed: whether that is (in, out).
        stored_as: ONNX element type of the codes, or how they come to be.
        rounded: whether the file holds float32, which is rounded when it runs.
    """

    name: str
    weight: Quantized
    inputs: StoredInput | None
    bias: Array | None
    x: str
    result: str
    decoded: str
    transposed: bool
    stored_as: str
    rounded: bool = False

    def read(self) -> Quantized:
        """The weight."""
        return self.weight

    def input_scale(self) -> np.float32 | None:
        """The static scale of the input; None: there is none."""
        return None if self.inputs is None else self.inputs.scale


class OnnxCheckpoint:
    """A quantized ONNX file.

    Args:
        file: the model; tensors outside of it are read from its folder.

    Raises:
        ModelError: it cannot be read, or holds codes in a way that is not read here.
        MissingExtraError: onnx is not installed.
    """

    def __init__(self, file: Path) -> None:
        self.file = file
        self.proto = load_file(file)
        graph = self.proto.graph
        self._tensors = {tensor.name: tensor for tensor in graph.initializer}
        self._producers = {name: n for n in graph.node for name in n.output}
        self._consumers: dict[str, list[onnx.NodeProto]] = {}
        for node in graph.node:
            for name in node.input:
                self._consumers.setdefault(name, []).append(node)
        self._used: set[str] = set()
        #: Decoded inputs of layers, and first outputs of the layers' nodes.
        self._inputs: set[str] = set()
        self._products: set[str] = set()
        #: Name -> layer, in order of the graph.
        self.layers: Mapping[str, StoredNode] = {
            layer.name: layer for layer in map(self._layer, graph.node) if layer
        }
        #: Tensors that are rounded or stored as codes, beside weights, biases and
        #: inputs of the layers: a result between them, an embedding.
        self.others = sum(
            node.op_type in ("DequantizeLinear", "DynamicQuantizeLinear")
            and node.output[0] not in self._used
            for node in graph.node
        ) + sum(map(self._goes_elsewhere, self._inputs))

    def _layer(self, node: onnx.NodeProto) -> StoredNode | None:
        if node.op_type in _INTEGER:
            return self._integer(node)
        if node.op_type not in _PRODUCTS:
            if node.op_type in _DECODES - {"DequantizeLinear"}:
                raise self._error(node, f"{node.op_type} is not read here")
            return None
        decoding = self._producers.get(node.input[1])
        if decoding is None or not self._holds_codes(node.input[1]):
            return None
        if decoding.op_type != "DequantizeLinear":
            raise self._error(node, f"its weight comes by way of {decoding.op_type}")
        transposed = self._transposed(node)
        rounding = self._producers.get(decoding.input[0])
        weight = self._weight(node, list(decoding.input), decoding, transposed)
        self._used.add(decoding.output[0])
        self._products.add(node.output[0])
        x, inputs = self._input(node)
        result, bias = node.output[0], None
        place = _PRODUCTS[node.op_type]
        if place is None:
            result, bias = self._bias_after(result, weight.shape[0])
        elif len(node.input) > place and node.input[place]:
            bias = self._constant(node.input[place])
            if bias is None:
                raise self._error(node, f"its bias {node.input[place]} is no constant")
        return StoredNode(
            name=_plain(node.name),
            weight=weight,
            inputs=inputs,
            bias=bias,
            x=x,
            result=result,
            decoded=node.input[1],
            transposed=transposed,
            stored_as=self._type(decoding.input[0])
            if rounding is None
            else "float32, rounded by QuantizeLinear when it runs",
            rounded=rounding is not None,
        )

    def _integer(self, node: onnx.NodeProto) -> StoredNode:
        """Codes x codes, then Cast, then Mul by both scales, then the bias."""
        dynamic = self._producers.get(node.input[0])
        if dynamic is None or dynamic.op_type != "DynamicQuantizeLinear":
            raise self._error(node, "its input is not from DynamicQuantizeLinear")
        cast = self._only(node.output[0], "Cast", node)
        scaled = self._only(cast.output[0], "Mul", node)
        factor = next(name for name in scaled.input if name != cast.output[0])
        scales = self._producers.get(factor)
        known = [n for n in (scales.input if scales else ()) if n in self._tensors]
        if len(known) != 1 or dynamic.output[1] not in (scales.input if scales else ()):
            raise self._error(node, "its scales are not one constant times the input's")
        parts = [node.input[1], known[0], *list(node.input[3:4])]
        transposed = node.op_type == "MatMulInteger"
        weight = self._weight(node, parts, None, transposed)
        self._used.add(dynamic.output[0])
        result, bias = self._bias_after(scaled.output[0], weight.shape[0])
        return StoredNode(
            name=_plain(node.name),
            weight=weight,
            inputs=StoredInput("uint8"),
            bias=bias,
            x=dynamic.input[0],
            result=result,
            decoded="",
            transposed=transposed,
            stored_as=self._type(node.input[1]),
        )

    def _weight(
        self,
        node: onnx.NodeProto,
        parts: list[str],
        decoding: onnx.NodeProto | None,
        transposed: bool,
    ) -> Quantized:
        """Codes, scales and zero points of constants, in torch's layout."""
        codes, kind = self._codes(node, parts[0])
        arrays = [codes, *(self._array(name) for name in parts[1:] if name)]
        if any(array is None for array in arrays):
            raise self._error(node, "the scales of its weight are no constants")
        found = attributes(decoding) if decoding is not None else {}
        # Codes that are multiplied have a scale a column, or an output channel.
        axis = int(found.get("axis", 1 if decoding is not None or transposed else 0))
        how = DecodedBy(axis, int(found.get("block_size", 0)), transposed)
        try:
            return quantized_of(arrays, kind, how)
        except ModelError as error:
            raise self._error(node, str(error)) from None

    def _codes(self, node: onnx.NodeProto, name: str) -> tuple[Array, str]:
        """Codes that are stored, or that a constant is rounded to; their type."""
        stored = self._array(name)
        if stored is not None:
            return stored, self._type(name)
        rounding = self._producers[name]
        if rounding.op_type != "QuantizeLinear":
            raise self._error(node, f"its weight comes by way of {rounding.op_type}")
        found = attributes(rounding)
        weight, *given = [self._array(part) for part in rounding.input]
        if weight is None or not given or any(part is None for part in given):
            raise self._error(node, "what its weight is rounded with is no constant")
        if found.get("block_size", 0):
            raise self._error(node, "its weight is rounded in blocks")
        kind = self._type(rounding.input[2]) if len(given) > 1 else "uint8"
        points = given[1] if len(given) > 1 and kind.endswith("int8") else None
        assert given[0] is not None  # sanity check
        axis = int(found.get("axis", 1))
        try:
            return rounded_codes(weight, given[0], points, kind, axis), kind
        except ModelError as error:
            raise self._error(node, str(error)) from None

    def _input(self, node: onnx.NodeProto) -> tuple[str, StoredInput | None]:
        """The input before it is rounded, and how it is."""
        decoding = self._producers.get(node.input[0])
        if decoding is None or decoding.op_type != "DequantizeLinear":
            return node.input[0], None
        rounding = self._producers.get(decoding.input[0])
        if rounding is None or rounding.op_type != "QuantizeLinear":
            raise self._error(
                node, f"its input {node.input[0]} is decoded, not rounded"
            )
        scale = self._array(rounding.input[1])
        if scale is None or scale.size != 1:
            raise self._error(node, "its input has not one constant scale")
        if not self._alike(rounding.input[1:], decoding.input[1:]):
            raise self._error(node, "its input is decoded with other scales")
        self._used.add(decoding.output[0])
        self._inputs.add(decoding.output[0])
        point, kind = None, "uint8"
        if len(rounding.input) > 2:
            kind = self._type(rounding.input[2])
            if kind in ("int8", "uint8"):
                held = self._array(rounding.input[2])
                assert held is not None  # sanity check
                point = int(held.reshape(-1)[0])
        names = {"int8": "int8", "uint8": "uint8", "float8e4m3fn": "fp8_e4m3"}
        if kind not in names:
            raise self._error(node, f"its input is rounded to {kind}")
        if kind == "uint8" and point is None:
            point = 0
        value = np.float32(scale.reshape(-1)[0])
        return rounding.input[0], StoredInput(names[kind], value, point)

    def _goes_elsewhere(self, decoded: str) -> bool:
        """Whether a layer's rounded input is a result, or what others compute with."""
        users = self._consumers[decoded]
        return decoded in {value.name for value in self.proto.graph.output} or any(
            user.op_type != "Shape" and user.output[0] not in self._products
            for user in users
        )

    def _alike(self, first: Sequence[str], second: Sequence[str]) -> bool:
        """Whether constants are the same ones, or equal."""
        if len(first) != len(second):
            return False
        for one, other in zip(first, second, strict=True):
            a, b = self._array(one), self._array(other)
            if a is None or b is None or not np.array_equal(a, b):
                return False
        return True

    def _bias_after(self, tensor: str, out: int) -> tuple[str, Array | None]:
        """The Add of a constant vector behind a product; the product where none is."""
        users = self._consumers.get(tensor, [])
        results = {value.name for value in self.proto.graph.output}
        if len(users) != 1 or users[0].op_type != "Add" or tensor in results:
            return tensor, None
        other = next((n for n in users[0].input if n != tensor), tensor)
        bias = self._constant(other)
        if bias is None or bias.size != out:
            return tensor, None
        return users[0].output[0], bias.reshape(-1)

    def _constant(self, name: str) -> Array | None:
        """float32 constant: as it is, decoded or reshaped; None: it is none."""
        if name in self._tensors:
            return np.asarray(self._array(name), np.float32)
        nodes: list[onnx.NodeProto] = []
        waiting = [name]
        while waiting:
            tensor = waiting.pop()
            node = self._producers.get(tensor)
            if tensor in self._tensors:
                continue
            if node is None:
                return None
            nodes.insert(0, node)
            waiting.extend(filter(None, node.input))
        self._used |= {output for node in nodes for output in node.output}
        return evaluated(self.proto, nodes, self._tensors, name)

    def _transposed(self, node: onnx.NodeProto) -> bool:
        if node.op_type == "Gemm":
            return not attributes(node).get("transB", 0)
        return bool(node.op_type == "MatMul")

    def _holds_codes(self, tensor: str) -> bool:
        """Whether a weight is decoded from stored codes, by whatever nodes."""
        waiting, seen = [tensor], set()
        while waiting:
            node = self._producers.get(waiting.pop())
            if node is None or node.name in seen:
                continue
            seen.add(node.name)
            if node.op_type in _DECODES:
                return node.input[0] in self._tensors or self._stored_below(node)
            if node.op_type in _VIEWS:
                waiting.extend(node.input)
        return False

    def _stored_below(self, node: onnx.NodeProto) -> bool:
        below = self._producers.get(node.input[0])
        return below is not None and below.input[0] in self._tensors

    def _only(self, tensor: str, kind: str, node: onnx.NodeProto) -> onnx.NodeProto:
        users = self._consumers.get(tensor, [])
        if len(users) != 1 or users[0].op_type != kind:
            raise self._error(node, f"{kind} does not follow it alone")
        return users[0]

    def _array(self, name: str) -> Array | None:
        from onnx import numpy_helper

        tensor = self._tensors.get(name)
        if tensor is None:
            return None
        array: Array = numpy_helper.to_array(tensor)
        return array

    def _type(self, name: str) -> str:
        import onnx

        kind = self._tensors[name].data_type
        shown: str = onnx.TensorProto.DataType.Name(kind).lower()
        return shown

    def _error(self, node: onnx.NodeProto, what: str) -> ModelError:
        return ModelError(
            f"{self.file}: {node.op_type} {node.name}: {what}; read are weights by "
            "DequantizeLinear, and MatMulInteger and ConvInteger after "
            "DynamicQuantizeLinear"
        )


def _plain(name: str) -> str:
    for end in _APPENDED:
        name = name.removesuffix(end)
    return name
