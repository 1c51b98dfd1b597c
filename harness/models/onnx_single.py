"""A model of one operator: what an upstream bug report can be attached to."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from harness.models.types import Operator

if TYPE_CHECKING:
    import onnx

#: Names of the model's input and output.
INPUT = "x"
OUTPUT = "y"
_OPSET = 21


def single_operator(operator: Operator) -> onnx.ModelProto:
    """An ONNX model (opset 21) of one operator, its weight and bias as constants.

    The input is (rows, K) float32 for a linear layer, (N, C, ...) for a convolution;
    the node carries the operator's name.
    """
    from onnx import TensorProto, checker, helper, numpy_helper

    weight = np.asarray(operator.weight, np.float32)
    linear = operator.kind == "linear"
    stored = np.ascontiguousarray(weight.T) if linear else weight
    constants = [numpy_helper.from_array(stored, "weight")]
    bias = operator.bias
    if bias is not None:
        constants.append(numpy_helper.from_array(np.asarray(bias, np.float32), "bias"))
    name = operator.name
    if linear:
        nodes = [helper.make_node("MatMul", [INPUT, "weight"], ["product"], name=name)]
        if bias is None:
            nodes[0].output[0] = OUTPUT
        else:
            nodes.append(helper.make_node("Add", ["product", "bias"], [OUTPUT]))
        shapes: tuple[list[str | int], list[str | int]] = (
            ["rows", weight.shape[1]],
            ["rows", weight.shape[0]],
        )
    else:
        entries = [INPUT, "weight"] + (["bias"] if bias is not None else [])
        pads = [begin for begin, _ in operator.padding]
        pads += [end for _, end in operator.padding]
        attributes = {
            "strides": list(operator.stride),
            "dilations": list(operator.dilation),
            "pads": pads,
            "group": operator.groups,
        }
        nodes = [helper.make_node("Conv", entries, [OUTPUT], name=name, **attributes)]
        free: list[str | int] = [f"d{i}" for i in range(weight.ndim - 2)]
        out: list[str | int] = [f"o{i}" for i in range(weight.ndim - 2)]
        shapes = (
            ["n", weight.shape[1] * operator.groups, *free],
            ["n", weight.shape[0], *out],
        )
    infos = [
        helper.make_tensor_value_info(label, TensorProto.FLOAT, shape)
        for label, shape in zip((INPUT, OUTPUT), shapes, strict=True)
    ]
    graph = helper.make_graph(nodes, name, infos[:1], infos[1:], constants)
    opset = helper.make_opsetid("", _OPSET)
    model = helper.make_model(graph, opset_imports=[opset], ir_version=10)
    checker.check_model(model)
    return model
