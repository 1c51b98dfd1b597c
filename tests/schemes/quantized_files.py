"""A small model and what ONNX Runtime's own quantizer makes of it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
from onnx import helper

from harness.models.onnx_model import OnnxModel
from harness.schemes.checkpoint import scheme_of_checkpoint
from harness.schemes.quantizers import quantize_model
from tests.models.graphs import model, random

#: Leaves what lies between operators alone.
INPUTS_ALONE = {
    "op_types_to_quantize": ["Conv", "Gemm", "MatMul"],
    "extra_options": {"OpTypesToExcludeOutputQuantization": ["Conv", "Gemm", "MatMul"]},
}


def network(folder: Path) -> OnnxModel:
    """Model: x (N, 8, 6) -> Conv, Relu, MatMul, Add, Relu, Gemm -> y (N, 3)."""
    proto = model(
        [
            helper.make_node("Conv", ["x", "k", "kb"], ["c"], name="conv"),
            helper.make_node("Relu", ["c"], ["cr"], name="relu"),
            helper.make_node("MatMul", ["cr", "w"], ["m"], name="fc"),
            helper.make_node("Add", ["m", "b"], ["a"], name="bias"),
            helper.make_node("Relu", ["a"], ["r"], name="relu_2"),
            helper.make_node("Reshape", ["r", "shape"], ["flat"], name="flat"),
            helper.make_node("Gemm", ["flat", "v", "vb"], ["y"], name="head", transB=1),
        ],
        {"x": [None, 8, 6]},
        {"y": [None, 3]},
        {
            "k": random(8, 8, 3, seed=1),
            "kb": random(8, seed=2),
            "w": random(4, 16, seed=3),
            "b": random(16, seed=4),
            "shape": np.array([-1, 128], np.int64),
            "v": random(3, 128, seed=5),
            "vb": random(3, seed=6),
        },
    )
    proto.ir_version = 10
    onnx.save(proto, folder / "model.onnx")
    return OnnxModel(folder / "model.onnx")


def inputs(seed: int) -> np.ndarray:
    """Five samples."""
    return random(5, 8, 6, seed=seed)


def calls():
    """What a quantizer is shown."""
    return iter([{"x": inputs(seed)} for seed in range(4)])


def quantized(folder: Path, name: str, options=None, file: str = "quantized.onnx"):
    """The model and the scheme of what a quantizer made of it."""
    made = network(folder)
    path = folder / file
    quantize_model(name, options or {}, made, calls, path)
    return made, scheme_of_checkpoint(path)
