"""Where Quark's quantizer of ONNX files does what it should not, we say so.

Measured with amd-quark 0.13, in its environment. Each test states what should be, and
is expected to fail.
"""

from __future__ import annotations

import onnx
import pytest
from onnx import helper

from harness.environments import interpreter
from harness.models.onnx_model import OnnxModel
from harness.schemes.apart import RaisedApart, quantize_apart
from harness.schemes.quark_quantizer import ENVIRONMENT
from tests.models.graphs import model, random

pytestmark = [
    pytest.mark.quant_slow,
    pytest.mark.skipif(
        interpreter(ENVIRONMENT) is None,
        reason="`quantharness setup quark` was not run",
    ),
]


@pytest.mark.xfail(
    strict=True, raises=AssertionError, reason="amd-quark 0.13 asserts a single reader"
)
def test_a_concat_with_two_readers_is_left_alone(tmp_path):
    """A8W8 aligns the scales of a Concat, also of one that is not quantized."""
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["y"], name="fc"),
        helper.make_node("Concat", ["x", "x"], ["c"], name="concat", axis=1),
        helper.make_node("Relu", ["c"], ["a"], name="first"),
        helper.make_node("Sigmoid", ["c"], ["b"], name="second"),
    ]
    outputs = {"y": [None, 8], "a": [None, 128], "b": [None, 128]}
    proto = model(nodes, {"x": [None, 64]}, outputs, {"w": random(64, 8)})
    proto.ir_version = 10
    onnx.save(proto, tmp_path / "model.onnx")
    kind = ""

    try:
        quantize_apart(
            ENVIRONMENT,
            OnnxModel(tmp_path / "model.onnx"),
            [{"x": random(16, 64, seed=seed)} for seed in range(4)],
            {"config": "A8W8", "op_types_to_quantize": ["MatMul"]},
            tmp_path / "q.onnx",
            environment=ENVIRONMENT,
        )
    except RaisedApart as error:
        kind = error.kind

    assert kind != "AssertionError"
