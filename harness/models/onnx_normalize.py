"""An ONNX graph in the plain form that the rest of the package works on.

Constants are initializers, conditions that are constant are decided, functions are
inlined, convolutions pad both ends alike, nodes have unique names, and the opset is one
that Q/DQ of the low formats can be added to.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from harness.errors import ModelError
from harness.models.onnx_fold import constants_to_initializers, fold
from harness.models.onnx_operators import attributes, name_nodes

if TYPE_CHECKING:
    import onnx

Array = np.ndarray[Any, np.dtype[Any]]

#: DequantizeLinear has `block_size` since 21; ONNX Runtime 1.31 runs up to IR 11.
OPSET: Final = 21
IR_VERSION: Final = 10


def normalize(
    model: onnx.ModelProto, *, fixed: Mapping[str, Array] | None = None
) -> onnx.ModelProto:
    """The plain form of a model; the argument is left as it is.

    Args:
        model: any valid model.
        fixed: inputs that become constants.

    Raises:
        ModelError: a fixed input is not one of the graph's, or the model cannot be
            brought to the opset needed.
    """
    import onnx
    from onnx.inliner import inline_local_functions

    plain = onnx.ModelProto()
    if model.functions:
        plain.CopyFrom(inline_local_functions(model))
    else:
        plain.CopyFrom(model)
    constants_to_initializers(plain.graph)
    _fix_inputs(plain, fixed or {})
    fold(plain)
    plain = _raise_opset(plain)
    constants_to_initializers(plain.graph)
    del plain.graph.value_info[:]
    plain.ir_version = IR_VERSION
    _pad_evenly(plain)
    _scale_gemms(plain)
    name_nodes(plain)
    _drop_unused(plain)
    return plain


def _fix_inputs(model: onnx.ModelProto, fixed: Mapping[str, Array]) -> None:
    from onnx import numpy_helper

    names = [value.name for value in model.graph.input]
    for name, array in fixed.items():
        if name not in names:
            raise ModelError(f"fixed input {name!r} is none of the graph's: {names}")
        model.graph.initializer.append(numpy_helper.from_array(array, name))
    kept = [value for value in model.graph.input if value.name not in fixed]
    del model.graph.input[:]
    model.graph.input.extend(kept)


def _raise_opset(model: onnx.ModelProto) -> onnx.ModelProto:
    from onnx import version_converter

    entry = next((o for o in model.opset_import if o.domain in ("", "ai.onnx")), None)
    if entry is None or entry.version >= OPSET:
        return model
    try:
        return version_converter.convert_version(model, OPSET)
    except Exception as error:  # noqa: BLE001 - it raises bare RuntimeError and more
        text = " ".join(str(error).split())[:300]
        raise ModelError(
            f"opset {entry.version} cannot be raised to {OPSET}: {text}; "
            f"export the model with opset {OPSET}"
        ) from None


def _pad_evenly(model: onnx.ModelProto) -> None:
    """Give a convolution with unequal pads a Pad node of its own, in place.

    Layers of torch pad both ends alike; what is observed as the operator's input is
    then the same on every backend. SAME padding at stride 1 is worked out as well; at
    other strides it depends on the input's size and stays as it is.
    """
    from onnx import helper, numpy_helper

    graph = model.graph
    weights = {t.name: tuple(t.dims) for t in graph.initializer}
    nodes = []
    for node in graph.node:
        pads = _conv_pads(node, weights)
        if pads is not None:
            half = len(pads) // 2
            _set_pads(node, pads)
            if pads[:half] != pads[half:]:
                full = np.array([0, 0, *pads[:half], 0, 0, *pads[half:]], np.int64)
                name = f"{node.output[0]}_pads"
                graph.initializer.append(numpy_helper.from_array(full, name))
                padded = f"{node.output[0]}_padded"
                nodes.append(helper.make_node("Pad", [node.input[0], name], [padded]))
                node.input[0] = padded
                _set_pads(node, [0] * len(pads))
        nodes.append(node)
    del graph.node[:]
    graph.node.extend(nodes)


def _conv_pads(
    node: onnx.NodeProto, weights: Mapping[str, tuple[int, ...]]
) -> list[int] | None:
    """All begins, then all ends; None where there is nothing to do."""
    if node.op_type != "Conv" or node.input[1] not in weights:
        return None
    found = attributes(node)
    kernel = weights[node.input[1]][2:]
    auto = found.get("auto_pad", "NOTSET")
    if auto == "NOTSET":
        pads = list(found.get("pads", []))
        half = len(pads) // 2
        return pads if pads[:half] != pads[half:] else None
    if auto == "VALID":
        return [0] * 2 * len(kernel)
    if set(found.get("strides", [1])) != {1}:
        return None
    dilations = found.get("dilations", [1] * len(kernel))
    total = [(k - 1) * d for k, d in zip(kernel, dilations, strict=True)]
    less = [n // 2 for n in total]
    more = [n - n // 2 for n in total]
    return [*less, *more] if auto == "SAME_UPPER" else [*more, *less]


def _set_pads(node: onnx.NodeProto, pads: list[int]) -> None:
    from onnx import helper

    kept = [a for a in node.attribute if a.name not in ("pads", "auto_pad")]
    del node.attribute[:]
    node.attribute.extend([*kept, helper.make_attribute("pads", pads)])


def _scale_gemms(model: onnx.ModelProto) -> None:
    """Work the factors of a Gemm into its constants, in place.

    `alpha * A @ B + beta * C` with constant B and C is a plain linear layer of their
    products; only then can the layer be quantized as any other.
    """
    from onnx import numpy_helper

    arrays = {t.name: t for t in model.graph.initializer}
    for index, node in enumerate(model.graph.node):
        if node.op_type != "Gemm":
            continue
        factors = {1: attributes(node).get("alpha", 1.0)}
        if len(node.input) > 2 and node.input[2]:
            factors[2] = attributes(node).get("beta", 1.0)
        constant = all(node.input[place] in arrays for place in factors)
        if not constant or set(factors.values()) == {1.0}:
            continue
        for place, factor in factors.items():
            array = numpy_helper.to_array(arrays[node.input[place]])
            scaled = (array * np.float64(factor)).astype(array.dtype)
            name = f"{node.input[place]}_scaled_{index}"
            model.graph.initializer.append(numpy_helper.from_array(scaled, name))
            node.input[place] = name
        kept = [a for a in node.attribute if a.name not in ("alpha", "beta")]
        del node.attribute[:]
        node.attribute.extend(kept)


def _drop_unused(model: onnx.ModelProto) -> None:
    """Drop nodes and initializers that no output needs."""
    graph = model.graph
    needed = {output.name for output in graph.output}
    kept = []
    for node in reversed(graph.node):
        if any(name in needed for name in node.output):
            kept.append(node)
            needed.update(reads(node))
    kept.reverse()
    del graph.node[:]
    graph.node.extend(kept)
    tensors = [tensor for tensor in graph.initializer if tensor.name in needed]
    del graph.initializer[:]
    graph.initializer.extend(tensors)


def reads(node: onnx.NodeProto) -> set[str]:
    """Names that a node and the graphs inside it read."""
    names = set(node.input)
    for attribute in node.attribute:
        for inner in (attribute.g, *attribute.graphs):
            names.update(n for child in inner.node for n in reads(child))
            names.update(value.name for value in inner.output)
    return names
