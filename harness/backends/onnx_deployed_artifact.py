"""What a quantized ONNX file holds, as the engine that runs it decodes it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from harness.backends.protocol import Artifact, QuantizedTensor
from harness.schemes.checkpoint import node_of_file, onnx_checkpoint
from harness.schemes.types import Scheme

if TYPE_CHECKING:
    from harness.schemes.onnx_model import QuantizedModel

Array = np.ndarray[Any, np.dtype[Any]]


def deployed_artifact(
    built: QuantizedModel, scheme: Scheme, decoded: Mapping[str, Array]
) -> Artifact:
    """Weights, which inputs are rounded, and what is left alone.

    Args:
        built: the file, and where its operators are.
        scheme: whose checkpoint it is.
        decoded: tensor of a decoded weight -> as the engine decodes it. A weight whose
            codes are multiplied is decoded by no node: it is read from the file.
    """
    from onnx import numpy_helper

    weights, rounded = {}, []
    for name, tensor in built.weights.items():
        layer = node_of_file(scheme, name)
        assert layer is not None  # sanity check
        stored = layer.read()
        scales = np.asarray(stored.scales)
        # What is rounded when it runs is held in float32.
        size = 4 * stored.codes.size if layer.rounded else len(stored.pack())
        value = decoded[tensor] if tensor else np.asarray(stored.dequantize())
        weights[name] = QuantizedTensor(
            format=stored.format,
            stored_as=layer.stored_as,
            scales=scales,
            decoded=value.T if tensor and name in built.transposed else value,
            nbytes=size + scales.nbytes,
        )
        if built.plans[name].activations:
            rounded.append(name)
    graph = onnx_checkpoint(scheme.checkpoint).proto.graph
    nodes = {node.name: node for node in graph.node}
    held = {t.name: t for t in graph.initializer}
    untouched = {}
    for name, plan in built.plans.items():
        weight = held.get(nodes[name].input[1]) if name in nodes else None
        if plan.weights or weight is None:
            continue
        array: Array = numpy_helper.to_array(weight)
        turned = nodes[name].op_type == "MatMul"
        untouched[name] = array.T if turned else array
    return Artifact(weights=weights, activations=rounded, untouched=untouched)
