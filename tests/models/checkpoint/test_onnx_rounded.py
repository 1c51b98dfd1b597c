"""Weights that a file holds in float32 and rounds when it runs, as ModelOpt's do."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator

from harness.errors import ModelError
from harness.models.checkpoint.onnx_file import OnnxCheckpoint
from harness.models.checkpoint.onnx_rounded import rounded_codes
from harness.schemes.checkpoint import scheme_of_checkpoint
from tests.models.graphs import model, random

WEIGHT = random(8, 4, seed=3)
COLUMNS = np.array([0.5, 0.02, 2.0, 0.01], np.float32)
POINTS = np.arange(4, dtype=np.int8)
ONE = np.float32(0.02)
#: Quotients in the middle between two codes, and beyond the last.
MIDDLES = np.tile(np.array([0.5, 1.5, -2.5, 1e4], np.float32), (8, 1))


def one_layer(tmp_path, weight, scale, zero, *, kept=("w", "s", "z"), **attributes):
    """A file: x (N, 8) times what Q and DQ make of a weight (8, 4)."""
    nodes = [
        helper.make_node("QuantizeLinear", ["w", "s", "z"], ["q"], "q", **attributes),
        helper.make_node("DequantizeLinear", ["q", "s", "z"], ["d"], "d", **attributes),
        helper.make_node("MatMul", ["x", "d"], ["y"], "fc"),
    ]
    given = {"w": weight, "s": scale, "z": zero}
    proto = model(nodes, {"x": [None, 8]}, {"y": [None, 4]}, {})
    for name, value in given.items():
        if name not in kept:
            shape = list(np.shape(value))
            value_info = helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)
            proto.graph.input.append(value_info)
            continue
        held = numpy_helper.from_array(np.asarray(value), name)
        proto.graph.initializer.append(held)
    proto.ir_version = 10
    onnx.save(proto, tmp_path / "one.onnx")
    return tmp_path / "one.onnx"


def fp8(*shape):
    """Zero points of FP8."""
    return np.zeros(shape, ml_dtypes.float8_e4m3fn)


@pytest.mark.parametrize(
    ("stored", "expected"),
    [
        ((WEIGHT, ONE, np.int8(0), {}), ("int8", "tensor")),
        ((WEIGHT, COLUMNS, np.zeros(4, np.int8), {"axis": 1}), ("int8", "channel")),
        ((WEIGHT, COLUMNS, POINTS, {"axis": -1}), ("int8", "channel")),
        ((WEIGHT, ONE, np.uint8(7), {}), ("uint8", "tensor")),
        ((MIDDLES, np.float32(1), np.int8(3), {}), ("int8", "tensor")),
        ((WEIGHT, ONE, fp8(), {}), ("fp8_e4m3", "tensor")),
        ((WEIGHT, COLUMNS, fp8(4), {"axis": 1}), ("fp8_e4m3", "channel")),
    ],
)
def test_rounds_as_the_specification_does(stored, expected, tmp_path):
    """Codes are those of the specification's evaluator, bit for bit."""
    weight, scale, zero, attributes = stored
    file = one_layer(tmp_path, weight, scale, zero, **attributes)
    proto = onnx.load(file)
    del proto.graph.node[2:], proto.graph.input[:], proto.graph.output[:]
    proto.graph.output.append(onnx.ValueInfoProto(name="d"))

    layer = OnnxCheckpoint(file).layers["fc"]
    scheme = scheme_of_checkpoint(file)

    (decoded,) = ReferenceEvaluator(proto).run(["d"], {})
    assert np.array_equal(layer.read().dequantize(), decoded.T)
    assert layer.rounded
    assert layer.stored_as.startswith("float32, rounded by QuantizeLinear")
    assert (scheme.weights.format, scheme.weights.granularity) == expected


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"weight": WEIGHT.astype(np.float16)},
            "its weight is float16, and is rounded",
        ),
        ({"scale": np.float32(0)}, "scales that are not above 0"),
        ({"scale": np.float32(np.nan)}, "scales that are not above 0"),
        ({"weight": np.where(WEIGHT > 0, np.inf, WEIGHT)}, "NaN or infinite numbers"),
        ({"zero": np.zeros((), ml_dtypes.int4)}, "rounded to int4, which is not read"),
        ({"kept": ("w", "z")}, "rounded with is no constant"),
        ({"scale": random(2, 4) ** 2, "block_size": 4, "axis": 0}, "in blocks"),
    ],
)
def test_what_is_not_read_is_refused_by_the_layer_s_name(change, message, tmp_path):
    """It may not pass for a weight that was left alone."""
    given = {"weight": WEIGHT, "scale": ONE, "zero": np.int8(0)} | change
    file = one_layer(tmp_path, **given)

    with pytest.raises(ModelError, match=rf"one\.onnx: MatMul fc: .*{message}"):
        OnnxCheckpoint(file)


def test_a_code_that_is_another_is_seen():
    """One last bit of a scale moves a number across a middle: the codes differ."""
    weight, scale = np.full((1, 1), 2.5, np.float32), np.float32(1)

    first = rounded_codes(weight, np.asarray(scale), None, "int8", 1)
    second = rounded_codes(
        weight, np.asarray(np.nextafter(scale, np.float32(0))), None, "int8", 1
    )

    assert (first.item(), second.item()) == (2, 3)
