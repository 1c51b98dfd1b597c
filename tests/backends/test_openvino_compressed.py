"""Weights in OpenVINO's own types: read by kernels, decoded exactly, or refused."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from onnx import helper, numpy_helper

from harness.backends.openvino_backend import OpenVinoBackend
from harness.backends.openvino_compressed import TYPES, Compression
from harness.backends.openvino_model import PINNED, compile_model, constants
from harness.backends.registry import load_registry
from harness.compare.explained import weight_evidence
from harness.defects import PlantedBackend, Planting
from harness.errors import BackendError
from harness.schemes.catalogue import SCHEMES
from tests.backends.observed import beyond
from tests.backends.small_onnx import normal, samples_of_conv, saved

#: Scheme -> the type that OpenVINO holds its codes in.
HELD = {
    "nf4": "nf4",
    "mxfp4_weight_only": "f4e2m1",
    "nvfp4_weight_only": "f4e2m1",
    "int4": "i4",
    "int4_g128": "i4",
}


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """Conv -> MatMul -> Gemm whose rows are no whole number of blocks."""
    weights = {"w": (32, 24, 3), "fc": (256, 136), "g": (48, 136), "gb": (48,)}
    tensors = normal(np.random.default_rng(5), weights)
    tensors.append(numpy_helper.from_array(np.array([-1, 256], np.int64), "shape"))
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["a"], "conv", pads=[1, 1]),
        helper.make_node("Relu", ["a"], ["r"], "relu"),
        helper.make_node("Reshape", ["r", "shape"], ["d"], "reshape"),
        helper.make_node("MatMul", ["d", "fc"], ["e"], "linear"),
        helper.make_node("Gemm", ["e", "g", "gb"], ["y"], "gemm", transB=1),
    ]
    folder = tmp_path_factory.mktemp("model")
    return saved(folder, nodes, tensors, ["n", 24, 8], ["m", 48], ir_version=10)


@pytest.fixture
def pinned():
    """`openvino@compressed_f32`."""
    return load_registry().backend("openvino@compressed_f32")


def drifts(session, model, scheme):
    """Unexplained drift of each operator, in units of its limit."""
    return beyond(model, scheme, session, samples_of_conv(), level=0.001)


@pytest.mark.parametrize("name", [*HELD, "mxfp8_weight_only"])
def test_every_operator_is_explained(model, pinned, name):
    """In rows of whole blocks, in a tail, and in a convolution."""
    session = pinned.load(model, SCHEMES[name])
    found = drifts(session, model, SCHEMES[name])

    assert {"conv", "linear", "gemm"} == set(found)
    assert max(found.values()) < 1


@pytest.mark.parametrize("name", HELD)
def test_what_kernels_read_is_told_from_what_was_decoded_before(model, pinned, name):
    """The compiled model's own types, operator by operator."""
    session = pinned.load(model, SCHEMES[name])
    shown = session.artifact().weights

    assert HELD[name] == shown["linear"].stored_as
    assert "decoded" in shown["conv"].stored_as
    assert "mixed" == session.arithmetic().execution
    assert f"of 3 weights read as {HELD[name]}" in session.arithmetic().detail
    assert constants(session._plain)[HELD[name]] >= 1


@pytest.mark.parametrize("name", [*HELD, "mxfp8_weight_only"])
def test_weights_are_decoded_exactly(model, pinned, name):
    """By OpenVINO, from its own types: no element has another code's value."""
    scheme = SCHEMES[name]
    shown = pinned.load(model, scheme).artifact().weights
    for operator in model.operators():
        evidence = weight_evidence(operator, scheme, shown[operator.name])
        assert 0 == evidence.differing
        assert evidence.unexplained < 1e-5


def test_a_code_that_was_changed_is_found(model, pinned):
    """What is in the graph's bytes is what OpenVINO gets."""
    scheme = SCHEMES["nf4"]
    built = pinned.build(model, scheme)
    for tensor in built.proto.graph.initializer:
        if tensor.name.startswith("linear/quantized/weight_codes"):
            tensor.raw_data = bytes([tensor.raw_data[0] ^ 15]) + tensor.raw_data[1:]
    session = pinned.open_built(built, scheme)
    operator = next(o for o in model.operators() if o.name == "linear")
    shown = session.artifact().weights["linear"]

    assert 1 == weight_evidence(operator, scheme, shown).differing
    found = drifts(session, model, scheme)
    assert found["linear"] > 10
    assert found["gemm"] < 1


@pytest.mark.parametrize("stored", [False, True], ids=["computed", "stored"])
def test_a_planted_weight_is_found(model, pinned, stored):
    """It stands beside the blocks, which are read as they are in the others."""
    scheme = SCHEMES["nf4"]
    planting = Planting(defect="codes_off_by_one", operator="linear", stored=stored)
    session = PlantedBackend(pinned, planting).load(model, scheme)
    operator = next(o for o in model.operators() if o.name == "linear")
    shown = session.artifact().weights

    found = drifts(session, model, scheme)
    assert found["linear"] > 10
    assert found["gemm"] < 1
    # Only what is stored otherwise shows in what the file holds.
    differing = weight_evidence(operator, scheme, shown["linear"]).differing
    assert (differing > 0) == stored


def test_by_default_inputs_of_integers_are_quantized_unasked(model):
    """As without compression; those of other types are not."""
    backend = OpenVinoBackend(compressed=True)

    assert [] == backend.load(model, SCHEMES["nf4"]).artifact().activations
    assert "linear" in backend.load(model, SCHEMES["int4"]).artifact().activations


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("fp8_weight_only", "no weights in blocks"),
        ("mxfp4", "inputs are quantized"),
        ("bfp16", "inputs are quantized"),
    ],
)
def test_what_it_does_not_hold_is_unsupported(model, pinned, name, reason):
    """Named, with the backend that runs it."""
    support = pinned.supports(model, SCHEMES[name])

    assert not support.supported
    assert reason in support.reason


def test_a_format_without_a_type_is_unsupported(model, pinned):
    """BFP16's elements are nobody's."""
    scheme = dataclasses.replace(SCHEMES["bfp16"], activations=None)

    assert "no type for fp8_e1m6" in pinned.supports(model, scheme).reason


def test_every_type_is_one_of_openvino():
    """By the names that it has for them."""
    openvino = pytest.importorskip("openvino")

    assert all(hasattr(openvino.Type, kind) for kind in TYPES.values())


def test_a_weight_that_is_not_found_is_an_error(model, pinned):
    """It would be decoded by the graph, and pass for compressed."""
    scheme = SCHEMES["nf4"]
    built = pinned.build(model, scheme)
    compression = Compression(built, scheme)
    for node in built.proto.graph.node:
        for names in (node.input, node.output):
            for place, name in enumerate(names):
                if name == built.weights["linear"]:
                    names[place] = "another"

    with pytest.raises(BackendError, match="weight of linear="):
        compile_model(built.proto.SerializeToString(), PINNED, compression)
