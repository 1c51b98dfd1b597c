"""Small ONNX models for the tests here."""

from __future__ import annotations

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper


def model(nodes, inputs, outputs, constants=(), *, opset=21, **options):
    """A model; inputs and outputs are name -> shape (None: any), float32.

    `constants` is name -> array. An input given as (dtype, shape) has that type.
    """

    def value(name, shape):
        kind = TensorProto.FLOAT
        if shape and isinstance(shape[0], str):
            kind, shape = getattr(TensorProto, shape[0]), shape[1]
        return helper.make_tensor_value_info(name, kind, shape)

    graph = helper.make_graph(
        nodes,
        "g",
        [value(*item) for item in inputs.items()],
        [value(*item) for item in outputs.items()],
        [numpy_helper.from_array(a, n) for n, a in dict(constants).items()],
    )
    return helper.make_model(
        graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8, **options
    )


def random(*shape, seed=0, dtype=np.float32):
    """Normal values, the same on every run."""
    return np.random.default_rng([seed, *shape]).standard_normal(shape).astype(dtype)


def perceptron(**options):
    """Model: x (N, 4) -> MatMul, Add, Relu, Gemm -> y (N, 2)."""
    return model(
        [
            helper.make_node("MatMul", ["x", "w"], ["m"], name="/fc1/MatMul"),
            helper.make_node("Add", ["b", "m"], ["a"], name="/fc1/Add"),
            helper.make_node("Relu", ["a"], ["r"]),
            helper.make_node("Gemm", ["r", "v", "c"], ["y"], name="fc2", transB=1),
        ],
        {"x": [None, 4]},
        {"y": [None, 2]},
        {
            "w": random(4, 3, seed=1),
            "b": random(3, seed=2),
            "v": random(2, 3, seed=3),
            "c": random(2, seed=4),
        },
        **options,
    )


def run_ort(proto: onnx.ModelProto, **feeds: np.ndarray) -> dict[str, np.ndarray]:
    """Outputs by name, from ONNX Runtime without optimisation."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.graph_optimization_level = (
        onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    )
    session = onnxruntime.InferenceSession(
        proto.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    names = [output.name for output in session.get_outputs()]
    return dict(zip(names, session.run(None, feeds), strict=True))
