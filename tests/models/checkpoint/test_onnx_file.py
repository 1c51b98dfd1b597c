"""Quantized ONNX files are read as they are written, or refused by name."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator

from harness.errors import ModelError
from harness.models.checkpoint.onnx_file import OnnxCheckpoint
from harness.schemes.checkpoint import scheme_of_checkpoint
from tests.models.graphs import model, random


def one_layer(tmp_path, codes, scale, *, zero=None, before=(), **attributes):
    """A file: x (N, 8) times what DequantizeLinear makes of codes (8, 4)."""
    inputs = ["codes", "scale"] + (["zero"] if zero is not None else [])
    nodes = [
        helper.make_node("DequantizeLinear", inputs, ["w"], name="dq", **attributes),
        *before,
        helper.make_node("MatMul", ["x", "w2" if before else "w"], ["y"], name="fc"),
    ]
    proto = model(nodes, {"x": [None, 8]}, {"y": [None, 4]}, {"scale": scale})
    held = codes if isinstance(codes, TensorProto) else numpy_helper.from_array(codes)
    held.name = "codes"
    proto.graph.initializer.append(held)
    if zero is not None:
        held = zero if isinstance(zero, TensorProto) else numpy_helper.from_array(zero)
        held.name = "zero"
        proto.graph.initializer.append(held)
    proto.ir_version = 10
    onnx.save(proto, tmp_path / "one.onnx")
    return tmp_path / "one.onnx"


def decoded(file):
    """What the specification's evaluator decodes, in torch's layout."""
    proto = onnx.load(file)
    part = onnx.ModelProto()
    part.CopyFrom(proto)
    (node,) = (n for n in proto.graph.node if n.op_type == "DequantizeLinear")
    del part.graph.node[:], part.graph.input[:], part.graph.output[:]
    part.graph.node.append(node)
    part.graph.output.append(onnx.ValueInfoProto(name="w"))
    return ReferenceEvaluator(part).run(["w"], {})[0].T


INT8 = np.arange(-16, 16, dtype=np.int8).reshape(8, 4)
COLUMNS = np.array([0.5, 0.25, 2.0, 1.5], np.float32)
POINTS = np.array([1, 2, 3, 4], np.int8)
UINT8 = (INT8 + 16).astype(np.uint8)
INT4 = helper.make_tensor("codes", TensorProto.INT4, [8, 4], INT8.ravel() // 2)
GROUPS = random(2, 4) ** 2
FP8 = helper.make_tensor(
    "codes", TensorProto.FLOAT8E4M3FN, [8, 4], INT8.ravel().astype(np.float32)
)


@pytest.mark.parametrize(
    ("stored", "expected"),
    [
        ((INT8, np.float32(0.5), None, {}), ("int8", "tensor")),
        ((INT8, COLUMNS, None, {"axis": 1}), ("int8", "channel")),
        ((INT8, COLUMNS, POINTS, {"axis": -1}), ("int8", "channel")),
        ((UINT8, np.float32(2), np.uint8(7), {}), ("uint8", "tensor")),
        ((UINT8, np.float32(2), None, {}), ("uint8", "tensor")),
        ((INT4, GROUPS, None, {"axis": 0, "block_size": 4}), ("int4", "block")),
        ((FP8, COLUMNS, None, {"axis": 1}), ("fp8_e4m3", "channel")),
    ],
)
def test_decodes_as_the_specification_does(stored, expected, tmp_path):
    """Codes, scales and zero points give the evaluator's weight, bit for bit."""
    codes, scale, zero, attributes = stored
    file = one_layer(tmp_path, codes, scale, zero=zero, **attributes)

    layer = OnnxCheckpoint(file).layers["fc"]
    scheme = scheme_of_checkpoint(file)

    assert np.array_equal(layer.read().dequantize(), decoded(file))
    assert (scheme.weights.format, scheme.weights.granularity) == expected
    assert scheme.activations is None


def test_scales_that_onnx_does_not_define_are_refused(tmp_path):
    """Two axes of scales without block_size, as NNCF writes them of a Conv."""
    file = one_layer(tmp_path, INT8, random(8, 4) ** 2, axis=0)

    with pytest.raises(ModelError, match=r"fc: its scales are \[8, 4\] without block"):
        OnnxCheckpoint(file)


def test_blocks_along_the_outputs_are_refused(tmp_path):
    """Scales are those of blocks of inputs: ModelOpt names the other axis of a Gemm."""
    file = one_layer(tmp_path, INT4, random(8, 1) ** 2, axis=1, block_size=4)

    with pytest.raises(
        ModelError, match=r"fc: its blocks lie along axis 1 of \[8, 4\]"
    ):
        OnnxCheckpoint(file)


@pytest.mark.parametrize(
    ("kind", "others"), [("Relu", 1), ("Identity", 1), ("Shape", 0)]
)
def test_a_rounded_input_that_goes_elsewhere_counts_as_rounded_between(
    kind, others, tmp_path
):
    """A residual sum that gets the decoded input computes with rounded numbers."""
    scale, zero = np.float32(0.1), np.int8(0)
    rounding = [
        helper.make_node("QuantizeLinear", ["x", "xs", "xz"], ["q"], name="q"),
        helper.make_node("DequantizeLinear", ["q", "xs", "xz"], ["x2"], name="d"),
    ]
    file = one_layer(tmp_path, INT8, np.float32(0.5))
    proto = onnx.load(file)
    (product,) = (node for node in proto.graph.node if node.name == "fc")
    product.input[0] = "x2"
    for node in (*rounding, helper.make_node(kind, ["x2"], ["z"], name="other")):
        proto.graph.node.insert(0 if node in rounding else 3, node)
    proto.graph.initializer.extend(
        numpy_helper.from_array(np.asarray(a), n)
        for n, a in (("xs", scale), ("xz", zero))
    )
    onnx.save(proto, file)

    assert OnnxCheckpoint(file).others == others


def test_codes_by_way_of_another_node_are_refused(tmp_path):
    """A weight that is decoded otherwise may not pass for one that is left alone."""
    after = [helper.make_node("Mul", ["w", "w"], ["w2"], name="mul")]
    file = one_layer(tmp_path, INT8, np.float32(0.5), before=after)

    with pytest.raises(ModelError, match="fc: its weight comes by way of Mul"):
        OnnxCheckpoint(file)


def test_a_file_without_codes_is_not_quantized(tmp_path):
    """Float weights are no checkpoint."""
    proto = model(
        [helper.make_node("MatMul", ["x", "w"], ["y"], name="fc")],
        {"x": [None, 8]},
        {"y": [None, 4]},
        {"w": random(8, 4)},
    )
    onnx.save(proto, tmp_path / "plain.onnx")

    with pytest.raises(ModelError, match="it is not quantized"):
        scheme_of_checkpoint(tmp_path / "plain.onnx")


@pytest.mark.parametrize("location", ["missing.data", "../outside.data"])
def test_tensors_that_are_missing_or_elsewhere_are_errors(location, tmp_path):
    """External data is read from the file's own folder alone."""
    folder = tmp_path / "folder"
    folder.mkdir()
    (tmp_path / "outside.data").write_bytes(INT8.tobytes())
    file = one_layer(folder, INT8, np.float32(0.5))
    proto = onnx.load(file)
    held = next(t for t in proto.graph.initializer if t.name == "codes")
    held.ClearField("raw_data")
    held.data_location = TensorProto.EXTERNAL
    held.external_data.add(key="location", value=location)
    file.write_bytes(proto.SerializeToString())

    with pytest.raises(ModelError, match=r"one\.onnx: not an ONNX model"):
        OnnxCheckpoint(file)


def test_what_is_no_model_is_told(tmp_path):
    """A file of other bytes names itself."""
    (tmp_path / "no.onnx").write_bytes(b"version https://git-lfs.github.com/spec/v1")

    with pytest.raises(ModelError, match=r"no\.onnx: not an ONNX model"):
        OnnxCheckpoint(tmp_path / "no.onnx")
