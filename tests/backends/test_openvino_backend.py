"""OpenVINO as a backend: what it runs, shows, declares and refuses."""

from __future__ import annotations

import dataclasses

import pytest

from harness.backends.openvino_backend import OpenVinoBackend
from harness.backends.openvino_model import products
from harness.backends.protocol import Backend, Session
from harness.backends.registry import load_registry
from harness.errors import BackendError, UnsupportedError, UsageError
from harness.schemes.catalogue import SCHEMES
from harness.schemes.types import TensorScheme
from tests.backends.observed import beyond
from tests.backends.small_onnx import conv_then_linear, samples_of_conv

#: Schemes that the pinned configuration computes as the graph says.
FAITHFUL = ("fp8_weight_only", "mxfp8_weight_only", "int8", "int8_weight_only", "int4")


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """Conv -> Relu -> MatMul + bias."""
    return conv_then_linear(tmp_path_factory.mktemp("model"))


@pytest.fixture
def x():
    """Eight samples."""
    return samples_of_conv()


@pytest.fixture
def pinned():
    """`openvino@f32`."""
    return load_registry().backend("openvino@f32")


def drifts(backend, model, name, x):
    """Unexplained drift of each operator under a shipped scheme, in its limits."""
    scheme = SCHEMES[name]
    return beyond(model, scheme, backend.load(model, scheme), x, level=0.001)


def test_it_is_a_backend_and_its_session_a_session(model, pinned):
    """Both protocols, and its name says which configuration."""
    assert isinstance(pinned, Backend)
    assert isinstance(pinned.load(model, None), Session)
    assert "openvino@f32" == pinned.name
    assert pinned.probe().available


@pytest.mark.parametrize("scheme", FAITHFUL)
def test_pinned_every_operator_is_explained(model, pinned, x, scheme):
    """Both operators, observed under the names that every backend uses."""
    found = drifts(pinned, model, scheme, x)

    assert {"conv", "linear"} == set(found)
    assert max(found.values()) < 1


def test_fp8_inputs_are_unexplained(model, pinned, x):
    """Rounding through float16 is found by the harness itself."""
    assert max(drifts(pinned, model, "fp8_e4m3", x).values()) > 10


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
