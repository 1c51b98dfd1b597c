"""Small ONNX files for the tests of engines, the same numbers on every run."""

from __future__ import annotations

import numpy as np
import onnx
from onnx import helper, numpy_helper

from harness.models.onnx_model import OnnxModel


def normal(rng, shapes):
    """float32 constants of a standard normal: name -> shape, drawn in that order."""
    return [
        numpy_helper.from_array(rng.standard_normal(shape).astype(np.float32), name)
        for name, shape in shapes.items()
    ]


def saved(folder, nodes, tensors, x, y, **options):
    """The model of `small.onnx`: opset 21, "x" to "y", both float32.

    Args:
        folder: where the file goes.
        nodes: of the graph.
        tensors: its constants.
        x: shape of the input; a text is a size that may be any.
        y: shape of the output.
        options: what `make_model` takes, such as `ir_version`.
    """
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", 1, x)],
        [helper.make_tensor_value_info("y", 1, y)],
        tensors,
    )
    opset = [helper.make_opsetid("", 21)]
    path = folder / "small.onnx"
    onnx.save(helper.make_model(graph, opset_imports=opset, **options), path)
    return OnnxModel(path)


def one_matmul(folder):
    """Model: x (N, 64) -> MatMul -> y (N, 24), all float32; its operator is "fc"."""
    nodes = [helper.make_node("MatMul", ["x", "w"], ["y"], "fc")]
    tensors = normal(np.random.default_rng(0), {"w": (64, 24)})
    return saved(folder, nodes, tensors, ["n", 64], ["n", 24])


def conv_then_linear(folder, *, shape=(), constants=None):
    """Model: x (N, 24, 8) -> Conv, Relu, Reshape, MatMul, Add -> y (N, 48).

    All float32 but for the Reshape's "shape", int64 (2,): rows of 256. Its operators
    are "conv", of 32 channels and a bias, and "linear".

    Args:
        folder: where the file goes.
        shape: nodes that make "shape" of "r", the Relu's result; none: it is a
            constant.
        constants: what those nodes read: name -> array.
    """
    constants = constants or {"shape": np.array([-1, 256], np.int64)}
    weights = {"w": (32, 24, 3), "b": (32,), "fc": (256, 48), "fb": (48,)}
    tensors = normal(np.random.default_rng(5), weights)
    tensors += [numpy_helper.from_array(a, name) for name, a in constants.items()]
    nodes = [
        helper.make_node("Conv", ["x", "w", "b"], ["a"], "conv", pads=[1, 1]),
        helper.make_node("Relu", ["a"], ["r"], "relu"),
        *shape,
        helper.make_node("Reshape", ["r", "shape"], ["d"], "reshape"),
        helper.make_node("MatMul", ["d", "fc"], ["e"], "linear"),
        helper.make_node("Add", ["e", "fb"], ["y"], "add"),
    ]
    return saved(folder, nodes, tensors, ["n", 24, 8], ["m", 48], ir_version=10)


def samples_of_conv(count=8):
    """Standard normal inputs of `conv_then_linear`: float32 (count, 24, 8)."""
    rng = np.random.default_rng(6)
    return rng.standard_normal((count, 24, 8)).astype(np.float32)
