"""Constants that a few nodes of a graph compute."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    import onnx

Array = np.ndarray[Any, np.dtype[Any]]


def evaluated(
    proto: onnx.ModelProto,
    nodes: Sequence[onnx.NodeProto],
    tensors: Mapping[str, onnx.TensorProto],
    name: str,
) -> Array:
    """What nodes without inputs of the model compute, by the specification's evaluator.

    Args:
        proto: the model, for its versions.
        nodes: in order.
        tensors: its constants.
        name: of the tensor that is asked for.

    Returns:
        float32.
    """
    import onnx
    from onnx.reference import ReferenceEvaluator

    held = {t for node in nodes for t in node.input if t in tensors}
    part = onnx.ModelProto()
    part.ir_version = proto.ir_version
    part.opset_import.extend(proto.opset_import)
    part.graph.node.extend(nodes)
    for node in part.graph.node:
        # ONNX Runtime's own, which decode 8 and 32 bits as ONNX's do.
        if node.op_type == "DequantizeLinear" and node.domain == "com.microsoft":
            node.domain = ""
    part.graph.initializer.extend(tensors[t] for t in sorted(held))
    part.graph.output.append(onnx.ValueInfoProto(name=name))
    (value,) = ReferenceEvaluator(part).run([name], {})
    return np.asarray(value, np.float32)
