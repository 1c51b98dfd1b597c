"""IREE as a backend: what it compiles, shows, declares and refuses."""

from __future__ import annotations

import dataclasses
import importlib.util

import numpy as np
import onnx
import onnx.reference
import pytest
from onnx import numpy_helper

from harness.backends.onnx_tables import without_stored_fp8
from harness.backends.protocol import Backend, Session
from harness.backends.registry import load_registry
from harness.compare.explained import Explained, weight_evidence
from harness.environments import VARIABLE
from harness.errors import BackendError, UnsupportedError, UsageError
from harness.schemes.catalogue import SCHEMES
from harness.schemes.onnx_qdq import build
from tests.backends.observed import beyond
from tests.backends.small_onnx import conv_then_linear, samples_of_conv

#: Run by `test_in_their_environments.py`, in IREE's own.
installed = pytest.mark.skipif(
    importlib.util.find_spec("iree") is None,
    reason="IREE is not here, but in its own environment",
)
#: Inputs that are cast to FP8, for which the importer has no type.
CAST = {"fp8_e4m3", "fp8_e4m3_static", "mxfp8", "nvfp4"}
#: Compiled for some seconds each.
slow = pytest.mark.quant_slow


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """Conv -> Relu -> MatMul + bias."""
    return conv_then_linear(tmp_path_factory.mktemp("model"))


@pytest.fixture
def x():
    """Eight samples."""
    return samples_of_conv()


@pytest.fixture
def iree(tmp_path, monkeypatch):
    """The backend, with a cache folder of its own."""
    monkeypatch.setenv("QUANTHARNESS_CACHE", str(tmp_path))
    return load_registry().backend("iree")


def calibrated(name):
    """The scheme; a static one for inputs up to 4 of the convolution's kind."""
    amax = {"conv": 4.0, "linear": 30.0}
    return dataclasses.replace(SCHEMES[name], calibration=amax)


def test_without_its_environment_it_says_what_makes_one(iree, monkeypatch):
    """One command; raises nothing."""
    monkeypatch.delenv(VARIABLE, raising=False)

    found = iree.probe()

    assert not found.available
    assert "`quantharness setup iree`" in found.reason
    assert load_registry().environment("iree") == {}


@installed
def test_it_is_a_backend_and_its_session_a_session(iree, model):
    """Both protocols."""
    assert isinstance(iree, Backend)
    assert iree.probe().available
    assert isinstance(iree.load(model, None), Session)


@installed
@slow
@pytest.mark.parametrize("name", sorted(set(SCHEMES) - CAST))
def test_every_operator_is_explained(iree, model, x, name):
    """Both operators, observed under the names that every backend uses."""
    scheme = calibrated(name)
    found = beyond(model, scheme, iree.load(model, scheme), x, level=0.001)

    assert {"conv", "linear"} == set(found)
    assert max(found.values()) < 1


@installed
def test_wrong_scales_are_unexplained(iree, model, x):
    """The check above fails where the weights are another scheme's."""
    scheme = calibrated("int8_weight_only")
    built = iree.build(model, scheme)
    for tensor in built.proto.graph.initializer:
        if "linear/quantized/weight_scale" in tensor.name:
            scales = numpy_helper.to_array(tensor)
            tensor.CopyFrom(numpy_helper.from_array(scales * 1.01, tensor.name))
    session = iree.open_built(built, scheme)
    outputs = session.run({"x": x}, capture=["linear"])
    explained = Explained(scheme, session.arithmetic())
    operator = next(o for o in model.operators() if o.name == "linear")
    explained.add(operator, outputs["linear/input"], outputs["linear"])

    (entry,) = explained.result()

    assert entry.residual_sq > 1e4 * entry.explained_sq


@installed
@pytest.mark.parametrize("name", sorted(CAST))
def test_a_cast_to_fp8_is_unsupported(iree, model, name):
    """Found out by compiling one; the reason names the type."""
    found = iree.supports(model, SCHEMES[name])

    assert not found.supported
    assert "has no ONNX Cast to FLOAT8E4M3FN" in found.reason


@installed
@slow
@pytest.mark.parametrize("name", ["fp8_weight_only", "nvfp4_weight_only", "int8"])
def test_the_artifact_is_decoded_by_iree_to_the_last_bit(iree, model, name):
    """FP8 codes, packed FP4 with FP8 scales, INT8."""
    scheme = calibrated(name)
    artifact = iree.load(model, scheme).artifact()

    for operator in model.operators():
        evidence = weight_evidence(operator, scheme, artifact.weights[operator.name])
        assert evidence.found == scheme.weights.format
        assert evidence.unexplained == 0


@installed
def test_what_was_compiled_is_found_again(iree, model, x, monkeypatch):
    """The same model is not compiled twice; the folder is held to its size."""
    from harness.backends import iree_module

    first = iree.load(model, None).run({"x": x})
    compiled = []
    monkeypatch.setattr(iree_module, "_compile", compiled.append)

    again = iree.load(model, None).run({"x": x})

    assert np.array_equal(first["y"], again["y"])
    assert not compiled
    folder = iree_module.cache_folder() / "iree"
    assert len(list(folder.iterdir())) == 1
    monkeypatch.setattr(iree_module, "_CACHED", 0)
    iree_module._forget_oldest(folder)
    assert not list(folder.iterdir())


@installed
def test_static_compiles_for_each_shape(model, x, tmp_path, monkeypatch):
    """The variant gives the same numbers, for any batch, captures included."""
    monkeypatch.setenv("QUANTHARNESS_CACHE", str(tmp_path))
    registry = load_registry()
    static = registry.backend("iree@static").load(model, None)
    plain = registry.backend("iree").load(model, None)

    for batch in (8, 2):
        found = static.run({"x": x[:batch]}, capture=["linear"])
        wanted = plain.run({"x": x[:batch]}, capture=["linear"])
        assert np.allclose(found["y"], wanted["y"], rtol=1e-5, atol=1e-4)
        assert np.array_equal(found["linear"], found["y"])
    assert "each combination of shapes" in static.arithmetic().detail


@installed
def test_misuse_raises(iree, model, x):
    """Missing inputs, wrong shapes, unknown operators, a closed session."""
    session = iree.load(model, None)
    for inputs, capture in (
        ({}, []),
        ({"x": x[:, :-1]}, []),
        ({"x": x[0]}, []),
        ({"x": x}, ["no such operator"]),
    ):
        with pytest.raises(BackendError):
            session.run(inputs, capture=capture)
    session.close()
    session.close()
    with pytest.raises(BackendError):
        session.run({"x": x})


@installed
def test_another_precision_and_a_wrong_thread_count_are_refused(
    iree, model, monkeypatch
):
    """FP16 models are not something this backend makes."""
    iree.precision = "fp16"
    with pytest.raises(UnsupportedError, match="fp16"):
        iree.load(model, None)
    iree.precision = "fp32"
    monkeypatch.setenv("QUANTHARNESS_THREADS", "many")
    with pytest.raises(UsageError, match="QUANTHARNESS_THREADS"):
        iree.load(model, None)


@pytest.mark.parametrize("name", ["fp8_weight_only", "mxfp8_weight_only"])
def test_stored_fp8_read_through_a_table_is_the_same(model, x, name):
    """No FP8 type is left, and the specification's evaluator gives the same bits."""
    proto = build(model.onnx(), SCHEMES[name], contributed=False).proto

    plain = without_stored_fp8(proto)

    evaluate = onnx.reference.ReferenceEvaluator
    assert 17 in {tensor.data_type for tensor in proto.graph.initializer}
    assert 17 not in {tensor.data_type for tensor in plain.graph.initializer}
    assert np.array_equal(
        evaluate(proto).run(None, {"x": x})[0], evaluate(plain).run(None, {"x": x})[0]
    )
