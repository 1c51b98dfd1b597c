"""OpenVINO as a backend: what it runs, shows, declares and refuses."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

from harness.backends.openvino_backend import OpenVinoBackend
from harness.backends.openvino_model import products
from harness.backends.protocol import Backend, Session
from harness.backends.registry import load_registry
from harness.compare.explained import Explained
from harness.errors import BackendError, UnsupportedError, UsageError
from harness.judge.statistics.quadratic import energy_factor
from harness.models.onnx_model import OnnxModel
from harness.schemes.catalogue import SCHEMES
from harness.schemes.types import TensorScheme

#: Schemes that the pinned configuration computes as the graph says.
FAITHFUL = ("fp8_weight_only", "mxfp8_weight_only", "int8", "int8_weight_only", "int4")


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """Conv -> Relu -> MatMul + bias."""
    rng = np.random.default_rng(5)
    weights = {"w": (32, 24, 3), "b": (32,), "fc": (256, 48), "fb": (48,)}
    tensors = [
        numpy_helper.from_array(rng.standard_normal(shape).astype(np.float32), name)
        for name, shape in weights.items()
    ]
    tensors.append(numpy_helper.from_array(np.array([-1, 256], np.int64), "shape"))
    nodes = [
        helper.make_node("Conv", ["x", "w", "b"], ["a"], "conv", pads=[1, 1]),
        helper.make_node("Relu", ["a"], ["r"], "relu"),
        helper.make_node("Reshape", ["r", "shape"], ["d"], "reshape"),
        helper.make_node("MatMul", ["d", "fc"], ["e"], "linear"),
        helper.make_node("Add", ["e", "fb"], ["y"], "add"),
    ]
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", 1, ["n", 24, 8])],
        [helper.make_tensor_value_info("y", 1, ["m", 48])],
        tensors,
    )
    opset = [helper.make_opsetid("", 21)]
    path = tmp_path_factory.mktemp("model") / "small.onnx"
    onnx.save(helper.make_model(graph, opset_imports=opset, ir_version=10), path)
    return OnnxModel(path)


@pytest.fixture
def x():
    """Eight samples."""
    return np.random.default_rng(6).standard_normal((8, 24, 8)).astype(np.float32)


@pytest.fixture
def pinned():
    """`openvino@f32`."""
    return load_registry().backend("openvino@f32")


def beyond(backend, model, scheme, x):
    """Unexplained drift of each operator, in units of its limit."""
    operators = {operator.name: operator for operator in model.operators()}
    session = backend.load(model, scheme)
    outputs = session.run({"x": x}, capture=list(operators))
    explained = Explained(scheme, session.arithmetic())
    for name, operator in operators.items():
        explained.add(operator, outputs[f"{name}/input"], outputs[name])
    factor = energy_factor(0.001)
    return {
        entry.operator: math.sqrt(entry.residual_sq / entry.explained_sq) / factor
        for entry in explained.result()
    }


def test_it_is_a_backend_and_its_session_a_session(model, pinned):
    """Both protocols, and its name says which configuration."""
    assert isinstance(pinned, Backend)
    assert isinstance(pinned.load(model, None), Session)
    assert "openvino@f32" == pinned.name
    assert pinned.probe().available


@pytest.mark.parametrize("scheme", FAITHFUL)
def test_pinned_every_operator_is_explained(model, pinned, x, scheme):
    """Both operators, observed under the names that every backend uses."""
    found = beyond(pinned, model, SCHEMES[scheme], x)

    assert {"conv", "linear"} == set(found)
    assert max(found.values()) < 1


def test_fp8_inputs_are_unexplained(model, pinned, x):
    """Rounding through float16 is found by the harness itself."""
    assert max(beyond(pinned, model, SCHEMES["fp8_e4m3"], x).values()) > 10


def test_the_effective_precision_is_declared(model, pinned):
    """What the compiled model says, not what was asked for."""
    session = pinned.load(model, SCHEMES["int8_weight_only"])
    report = session.precision_report()

    assert ("fp32", "fp32") == (report["computed"], session.arithmetic().operands)
    assert "dynamic quantization group 0" in session.arithmetic().detail


def test_inputs_that_it_quantizes_unasked_are_shown(model, pinned):
    """By default those of INT8 weights in a MatMul; pinned none."""
    scheme = SCHEMES["int8_weight_only"]

    assert ["linear"] == OpenVinoBackend().load(model, scheme).artifact().activations
    assert [] == pinned.load(model, scheme).artifact().activations


def test_weights_are_shown_as_openvino_decodes_them(model, pinned):
    """Codes on the grid of the format, and the bytes that hold them."""
    shown = pinned.load(model, SCHEMES["fp8_weight_only"]).artifact().weights

    assert {"conv", "linear"} == set(shown)
    assert ("fp8_e4m3", "float8_e4m3fn") == (
        shown["linear"].format,
        shown["linear"].stored_as,
    )
    assert (48, 256) == shown["linear"].decoded.shape


def test_products_of_codes_are_native(model, pinned):
    """INT8 Q/DQ on both sides runs INT8 kernels, and is declared so."""
    scheme = dataclasses.replace(
        SCHEMES["int8_static"], calibration={"conv": 4.0, "linear": 40.0}
    )
    session = pinned.load(model, scheme)

    assert "native" == session.arithmetic().execution
    assert all(layer.low for layer in products(session._plain))


def test_an_element_type_that_it_does_not_read_is_unsupported(model, pinned):
    """Found out by trying, once; `supports` says why, and `load` refuses too."""
    weights = TensorScheme(format="fp8_e4m3fnuz", granularity="channel")
    scheme = dataclasses.replace(SCHEMES["fp8_weight_only"], weights=weights)
    support = pinned.supports(model, scheme)

    assert not support.supported
    assert "does not read FLOAT8E4M3FNUZ" in support.reason
    with pytest.raises(UnsupportedError):
        pinned.load(model, scheme)


def test_misuse_raises(model, pinned, x, monkeypatch):
    """A missing input, a closed session, a precision it has not, and a bad setting."""
    session = pinned.load(model, None)
    with pytest.raises(BackendError, match=r"missing=\['x'\]"):
        session.run({})
    with pytest.raises(BackendError, match="while it ran"):
        session.run({"x": x[:, :3]})
    session.close()
    session.close()
    with pytest.raises(BackendError, match="closed=True"):
        session.run({"x": x})
    with pytest.raises(UnsupportedError, match="fp64"):
        OpenVinoBackend("fp64").load(model, None)
    monkeypatch.setenv("QUANTHARNESS_THREADS", "two")
    with pytest.raises(UsageError, match="QUANTHARNESS_THREADS"):
        pinned.load(model, None)
