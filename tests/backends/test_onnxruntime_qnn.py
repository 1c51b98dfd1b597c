"""`onnxruntime@qnn`: Qualcomm's plugin, with sessions of fixed shapes."""

from __future__ import annotations

import dataclasses
import importlib.util

import numpy as np
import onnx
import onnx.reference
import pytest
from onnx import helper

from harness.backends import onnx_pool, onnx_qnn, onnx_session
from harness.backends.onnx_shapes import any_shapes, fold_shapes, shapes_of, with_shapes
from harness.backends.registry import load_registry
from harness.errors import BackendError, MissingExtraError
from harness.schemes.catalogue import SCHEMES
from tests.backends.observed import beyond, largest_inputs
from tests.backends.small_onnx import conv_then_linear, samples_of_conv

installed = pytest.mark.skipif(
    importlib.util.find_spec("onnxruntime_qnn") is None,
    reason="onnxruntime-qnn is not installed: extra qnn",
)
#: What the HTP is given; everything else is unsupported.
TAKEN = {"int8_static", "int8_weight_only"}


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """Conv -> Relu -> Flatten by its own shape -> MatMul + bias."""
    nodes = [
        helper.make_node("Shape", ["r"], ["s"], "shape"),
        helper.make_node("Gather", ["s", "first"], ["n"], "gather"),
        helper.make_node("Concat", ["n", "rest"], ["shape"], "concat", axis=0),
    ]
    constants = {"first": np.array([0], np.int64), "rest": np.array([-1], np.int64)}
    folder = tmp_path_factory.mktemp("model")
    return conv_then_linear(folder, shape=nodes, constants=constants)


def inputs(batch):
    """Standard normal inputs of the model."""
    return {"x": samples_of_conv(batch)}


@pytest.fixture
def qnn():
    """The plugin without a processor's name, which computes floats in float32."""
    return load_registry().backend("onnxruntime@qnn")


@pytest.fixture
def scheme(model):
    """`int8_static`, calibrated on the inputs."""
    plain = load_registry().backend("onnxruntime@cpu").load(model, None)
    amax = largest_inputs(model, plain, samples_of_conv())
    return dataclasses.replace(SCHEMES["int8_static"], calibration=amax)


@installed
def test_the_plugin_is_registered_and_its_device_found(qnn):
    """Twice in a process, too."""
    onnx_qnn.register()
    onnx_qnn.register()

    found = qnn.probe()

    assert (found.available, found.device) == (True, "qnn")


def test_a_missing_plugin_says_which_extra_adds_it(qnn, monkeypatch):
    """The probe and loading alike."""
    monkeypatch.setattr("onnxruntime.get_available_providers", lambda: ["CPU"])
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)

    with pytest.raises(MissingExtraError, match=r"quantharness\[qnn\]"):
        onnx_qnn.register()
    monkeypatch.undo()
    monkeypatch.setattr(onnx_session, "register", _missing)
    assert "quantharness[qnn]" in qnn.probe().reason


def _missing():
    raise MissingExtraError("onnxruntime-qnn", "qnn")


@pytest.mark.parametrize("name", sorted(SCHEMES))
def test_only_what_the_htp_takes_is_supported(qnn, model, name):
    """Anything else would be decoded and rounded by the CPU, in the NPU's name."""
    found = qnn.supports(model, SCHEMES[name])

    assert found.supported == (name in TAKEN)
    if name not in TAKEN:
        assert "QNN's HTP takes" in found.reason
        assert {"conv", "linear"} == set(found.operators)


def drifts(session, model, scheme):
    """Unexplained drift of each operator, in units of its limit."""
    return beyond(model, scheme, session, samples_of_conv(), level=0.001)


@installed
def test_an_operator_whose_input_the_cpu_rounds_is_explained(qnn, model, scheme):
    """Observed under its name; its product is QNN's."""
    session = qnn.load(model, scheme)

    assert drifts(session, model, scheme)["conv"] < 1
    found = onnx_session.assigned_kinds(session._pool.first)
    assert {"Conv", "Gemm"} <= set(found[onnx_qnn.QNN])
    assert not {"Conv", "MatMul", "Gemm"} & set(found.get(onnx_session.CPU, ()))


@installed
def test_an_input_that_it_leaves_unrounded_is_found(qnn, model, scheme):
    """Inside its graph it drops Quantize and Dequantize: the oracle says so."""
    assert drifts(qnn.load(model, scheme), model, scheme)["linear"] > 1000


@installed
def test_weights_alone_are_explained(qnn, model):
    """Nothing is to be rounded between the operators."""
    scheme = SCHEMES["int8_weight_only"]

    assert max(drifts(qnn.load(model, scheme), model, scheme).values()) < 1


@installed
def test_what_stays_with_the_cpu_and_the_precision_are_shown(qnn, model, scheme):
    """Per-channel weights are decoded there; floats are what the HTP says they are."""
    session = qnn.load(model, scheme)

    shown = session.arithmetic()

    assert f"{onnx_qnn.QNN} " in shown.detail
    assert "on the CPU DequantizeLinear" in shown.detail
    assert (shown.operands, shown.output) == ("fp32", "fp32")
    assert session.precision_report()["computed"] == "fp32"


@installed
def test_the_artifact_shows_what_is_held(qnn, model, scheme):
    """INT8 weights and rounded inputs of both operators."""
    artifact = qnn.load(model, scheme).artifact()

    assert {"int8"} == {entry.format for entry in artifact.weights.values()}
    assert {"conv", "linear"} == set(artifact.activations)


@installed
def test_every_shape_gets_a_session_and_few_are_kept(qnn, model, scheme, monkeypatch):
    """A shape seen before is not opened again, the one used longest ago is dropped."""
    opened = []
    really = onnx_pool.open_session

    def counted(data, settings):
        opened.append(1)
        return really(data, settings)

    session = qnn.load(model, scheme)
    monkeypatch.setattr(onnx_pool, "open_session", counted)
    monkeypatch.setattr(onnx_pool, "_KEPT_BY_SHAPE", 2)

    sizes = []
    for batch in (1, 2, 1, 3, 1, 2):
        assert session.run(inputs(batch))["y"].shape == (batch, 48)
        sizes.append(len(opened))

    assert [1, 2, 2, 3, 3, 4] == sizes
    assert len(session._pool._others) == 2


@installed
def test_misuse_raises(qnn, model, scheme):
    """Wrong shapes, missing inputs, a closed session."""
    session = qnn.load(model, scheme)
    with pytest.raises(BackendError):
        session.run({})
    with pytest.raises(BackendError):
        session.run({"x": np.zeros((2, 23, 8), np.float32)})
    session.close()
    session.close()
    with pytest.raises(BackendError):
        session.run(inputs(2))


def test_shapes_are_fixed_and_their_arithmetic_is_worked_out(model):
    """The folded model has no Shape left and computes the same."""
    proto = model.onnx()
    feeds = inputs(3)

    fixed = onnx.ModelProto()
    fixed.ParseFromString(with_shapes(proto.SerializeToString(), shapes_of(feeds)))
    folded = fold_shapes(fixed)

    kinds = {node.op_type for node in folded.graph.node}
    assert "Shape" in {node.op_type for node in proto.graph.node}
    assert kinds == {"Conv", "Relu", "Reshape", "MatMul", "Add"}
    evaluate = onnx.reference.ReferenceEvaluator
    assert np.array_equal(
        evaluate(proto).run(None, feeds)[0], evaluate(folded).run(None, feeds)[0]
    )


def test_tried_shapes_are_one_sample():
    """The batch's axis is 1 wherever it stands, other free axes as long as asked."""
    ends = [
        helper.make_tensor_value_info("x", 1, ["batch", "time"]),
        helper.make_tensor_value_info("state", 1, [2, "batch", 128]),
    ]
    graph = helper.make_graph([], "g", ends, ends)
    data = helper.make_model(graph).SerializeToString()

    assert (("state", (2, 1, 128)), ("x", (1, 32))) == any_shapes(data, 32)


def test_what_no_length_opens_says_why_each_does_not(monkeypatch):
    """The first reason is not hidden by that of axes that are too long."""

    def refuse(data, _):
        length = onnx.load_from_string(data).graph.input[0].type.tensor_type
        size = length.shape.dim[-1].dim_value
        raise BackendError("no memory" if size < 1024 else "dimensions do not fit")

    monkeypatch.setattr(onnx_pool, "open_session", refuse)
    settings = dataclasses.replace(onnx_session.Settings(), provider=onnx_qnn.QNN)
    graph = helper.make_graph(
        [helper.make_node("Relu", ["x"], ["y"])],
        "g",
        [helper.make_tensor_value_info("x", 1, ["n", "length"])],
        [helper.make_tensor_value_info("y", 1, ["n", "length"])],
    )
    data = helper.make_model(graph).SerializeToString()

    with pytest.raises(BackendError, match=r"no memory; with axes of 1024: dim"):
        onnx_pool.Pool(data, settings)
