"""ONNX Runtime as a backend: what it runs, shows and declares."""

from __future__ import annotations

import copy
import dataclasses

import numpy as np
import onnxruntime
import pytest
from onnx import helper, numpy_helper

from harness.backends import onnx_session
from harness.backends.onnxruntime_backend import OnnxRuntimeBackend
from harness.backends.protocol import Backend, Session
from harness.backends.registry import load_registry
from harness.compare.explained import weight_evidence
from harness.errors import BackendError, UnsupportedError, UsageError
from harness.models.onnx_model import OnnxModel
from harness.schemes.catalogue import SCHEMES
from harness.schemes.types import Scheme, TensorScheme
from tests.backends.observed import furthest, largest_inputs
from tests.backends.small_onnx import normal, saved
from tests.models.graphs import perceptron

#: Schemes that ONNX Runtime's default optimizer does not compute as the graph says; the
#: tests at the end of this file show why.
DEVIATING = {"int8", "int8_weight_only", "int8_static", "fp8_e4m3_static"}


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """Conv -> Relu -> depthwise Conv -> MatMul + bias -> Gelu-free Gemm."""
    shapes = {
        "conv_w": (32, 24, 3, 3),
        "conv_b": (32,),
        "deep_w": (32, 1, 3, 3),
        "fc_w": (128, 48),
        "fc_b": (48,),
        "head_w": (20, 48),
        "head_b": (20,),
    }
    tensors = normal(np.random.default_rng(5), shapes)
    tensors.append(numpy_helper.from_array(np.array([0, -1, 128], np.int64), "shape"))
    tensors.append(numpy_helper.from_array(np.array([-1, 48], np.int64), "two"))
    nodes = [
        helper.make_node(
            "Conv", ["x", "conv_w", "conv_b"], ["a"], "conv", pads=[1] * 4
        ),
        helper.make_node("Relu", ["a"], ["b"], "relu"),
        helper.make_node(
            "Conv", ["b", "deep_w"], ["c"], "deep", pads=[1] * 4, group=32
        ),
        helper.make_node("Reshape", ["c", "shape"], ["d"], "reshape"),
        helper.make_node("MatMul", ["d", "fc_w"], ["e"], "fc"),
        helper.make_node("Add", ["e", "fc_b"], ["f"], "add"),
        helper.make_node("Sigmoid", ["f"], ["g"], "sigmoid"),
        helper.make_node("Reshape", ["g", "two"], ["h"], "rows"),
        helper.make_node("Gemm", ["h", "head_w", "head_b"], ["y"], "head", transB=1),
    ]
    folder = tmp_path_factory.mktemp("model")
    return saved(folder, nodes, tensors, ["n", 24, 8, 8], ["m", 20], ir_version=10)


@pytest.fixture(scope="module")
def x():
    """Three samples."""
    return np.random.default_rng(6).standard_normal((3, 24, 8, 8)).astype(np.float32)


@pytest.fixture(scope="module")
def calibration(model, x):
    """The largest input of every operator of the unquantized model."""
    return largest_inputs(model, OnnxRuntimeBackend().load(model, None), x)


def calibrated(name, calibration):
    """A shipped scheme with the model's calibration."""
    return dataclasses.replace(SCHEMES[name], calibration=calibration)


def test_it_is_a_backend(model):
    """The protocol's members are there, and a probe says what is installed."""
    backend = OnnxRuntimeBackend()

    found = backend.probe()

    assert isinstance(backend, Backend)
    assert isinstance(backend.load(model, None), Session)
    assert found.available
    assert found.device in ("cpu", "cuda")


def test_a_model_that_is_too_new_says_which_opset_is_known(tmp_path):
    """Not the signature of the function that found it."""
    proto = perceptron()
    proto.opset_import[0].version, proto.ir_version = 29, 11
    (tmp_path / "new.onnx").write_bytes(proto.SerializeToString())

    with pytest.raises(BackendError, match=r"has opset 29, and this version knows \d+"):
        OnnxRuntimeBackend().load(OnnxModel(tmp_path / "new.onnx"), SCHEMES["int8"])


@pytest.mark.parametrize("name", sorted(set(SCHEMES) - DEVIATING))
def test_every_operator_is_explained_in_the_default_configuration(
    name, model, x, calibration
):
    """What users run computes what the scheme says."""
    scheme = calibrated(name, calibration)
    session = OnnxRuntimeBackend().load(model, scheme)

    assert furthest(model, scheme, session, x)[1] < 1


@pytest.mark.parametrize("name", sorted(DEVIATING))
def test_every_operator_is_explained_without_the_optimizer(name, model, x, calibration):
    """The graph that is built is right; what the optimizer makes of it may not be."""
    scheme = calibrated(name, calibration)
    session = OnnxRuntimeBackend(optimization="off").load(model, scheme)

    assert furthest(model, scheme, session, x)[1] < 1


@pytest.mark.parametrize("name", sorted(SCHEMES))
def test_the_artifact_is_bit_faithful_and_small(name, model, calibration):
    """Decoded from the built bytes, each weight is numerics' own; none is float."""
    scheme = calibrated(name, calibration)
    artifact = OnnxRuntimeBackend().load(model, scheme).artifact()
    blocked = scheme.weights.granularity == "block"
    quantized = {"conv", "fc", "head"} | (set() if blocked else {"deep"})

    assert set(artifact.weights) == quantized
    for operator in model.operators():
        if operator.name not in quantized:
            assert np.array_equal(artifact.untouched[operator.name], operator.weight)
            continue
        shown = artifact.weights[operator.name]
        evidence = weight_evidence(operator, scheme, shown)
        assert evidence.found == scheme.weights.format
        assert evidence.unexplained == 0
        assert evidence.nonfinite_scales == evidence.unusable_scales == 0
        # Small kernels have many scales; half of float32 is far from float32.
        assert shown.nbytes < operator.weight.nbytes / 2
    expected = set() if scheme.weight_only else quantized
    assert set(artifact.activations) == expected


def roll_scales(proto, operator):
    """One layer's scales rolled by one block."""
    tensor = initializer(proto, operator, "/weight_scale")
    tensor.raw_data = tensor.raw_data[1:] + tensor.raw_data[:1]


def swap_nibbles(proto, operator):
    """The two codes of every byte the other way round."""
    tensor = initializer(proto, operator, "/weight_codes")
    codes = np.frombuffer(tensor.raw_data, np.uint8)
    tensor.raw_data = ((codes >> 4) | (codes << 4)).astype(np.uint8).tobytes()


def scale_slightly(proto, operator):
    """All scales of one layer 0.2% too large."""
    tensor = initializer(proto, operator, "/weight_scale")
    scales = np.frombuffer(tensor.raw_data, np.float32) * np.float32(1.002)
    tensor.raw_data = scales.astype(np.float32).tobytes()


def truncate(proto, operator):
    """Rounding to nearest replaced: every second magnitude one code lower."""
    tensor = initializer(proto, operator, "/weight_codes")
    codes = np.frombuffer(tensor.raw_data, np.uint8).copy()
    low = codes & 7
    tensor.raw_data = np.where(low > 0, codes - 1, codes).astype(np.uint8).tobytes()


def initializer(proto, operator, part):
    """The stored codes or scales of one operator."""
    return next(
        t
        for t in proto.graph.initializer
        if t.name.startswith(f"{operator}/quantized") and part in t.name
    )


@pytest.mark.parametrize(
    ("name", "defect"),
    [
        ("mxfp4", roll_scales),
        ("nvfp4", roll_scales),
        ("mxfp4_weight_only", roll_scales),
        ("nvfp4_weight_only", swap_nibbles),
        ("mxfp4", swap_nibbles),
        ("int4", swap_nibbles),
        ("nvfp4", truncate),
        ("fp8_e4m3", scale_slightly),
        ("fp8_weight_only", scale_slightly),
        ("int4", scale_slightly),
    ],
)
def test_a_one_line_defect_names_its_operator(name, defect, model, x, calibration):
    """Planted in one layer of the built model: only that one is beyond its limit."""
    from harness.backends.onnxruntime_backend import OnnxRuntimeSession
    from harness.schemes.onnx_qdq import build

    scheme = calibrated(name, calibration)
    built = build(model.onnx(), scheme)
    defect(built.proto, "fc")

    session = OnnxRuntimeSession(built, "fp32", scheme)

    guilty, ratio = furthest(model, scheme, session, x)
    assert guilty == "fc"
    assert ratio > 10
    operator = next(o for o in model.operators() if o.name == "fc")
    shown = session.artifact().weights["fc"]
    assert weight_evidence(operator, scheme, shown).unexplained > 0


def test_captures_show_the_input_before_quantization_and_the_output_with_bias(
    model, x, calibration
):
    """The chain of observed operators is the model's own."""
    scheme = calibrated("fp8_e4m3", calibration)
    session = OnnxRuntimeBackend().load(model, scheme)

    outputs = session.run({"x": x}, capture=["conv", "deep", "head"])

    assert np.array_equal(outputs["conv/input"], x)
    assert np.array_equal(outputs["deep/input"], np.maximum(outputs["conv"], 0))
    assert np.array_equal(outputs["head"], outputs["y"])
    assert "fc" not in outputs
    assert outputs.timings["run"] > 0


def test_fp16_is_storage_and_says_so(model, x):
    """Weights are rounded to FP16, arithmetic is FP32: a probe decides what is said."""
    half = OnnxRuntimeBackend("fp16").load(model, None)
    full = OnnxRuntimeBackend("fp32").load(model, None)

    ys = [session.run({"x": x})["y"] for session in (half, full)]

    report = half.precision_report()
    assert not np.array_equal(*ys)
    assert np.allclose(*ys, rtol=0, atol=0.05 * np.abs(ys[1]).max())
    assert report["stored"] == "fp16"
    assert report["overflowed"] == onnx_session.fp16_overflows()
    assert "FP32 arithmetic" in report["statement"]


def test_another_precision_is_refused(model):
    """BF16 models are not something this backend makes."""
    with pytest.raises(UnsupportedError, match="bf16"):
        OnnxRuntimeBackend("bf16").load(model, None)


def test_a_copy_with_another_precision_leaves_the_first(model):
    """The precision is an attribute that a copy can change."""
    backend = OnnxRuntimeBackend("fp16")
    other = copy.copy(backend)
    other.precision = "fp32"

    assert backend.load(model, None).precision_report()["stored"] == "fp16"
    assert other.load(model, None).precision_report()["stored"] == "fp32"


def test_the_provider_that_was_asked_for_runs_the_nodes(model, monkeypatch):
    """The assignment is shown; a provider that was given nothing is an error."""
    session = OnnxRuntimeBackend().load(model, None)
    wanted = onnx_session.providers()[0]
    assert session.assignment[wanted] > 0
    assert wanted in session.arithmetic().detail

    monkeypatch.setattr(onnx_session, "providers", lambda _: ["Other"])
    with pytest.raises(BackendError, match="Other runs 0 nodes"):
        onnx_session.assignment(session._pool.first)


def test_a_provider_that_claims_nothing_is_an_error(model):
    """Azure's registers in every build and runs no MatMul: no result in its name."""
    azure = "AzureExecutionProvider"
    if azure not in onnxruntime.get_available_providers():
        pytest.skip(f"this build of onnxruntime has no {azure}")
    backend = OnnxRuntimeBackend(provider=azure)

    assert backend.probe().available
    with pytest.raises(BackendError, match=f"{azure} runs 0 nodes"):
        backend.load(model, None)


def test_a_provider_that_fails_is_not_replaced_by_the_cpu(model, x, monkeypatch):
    """ONNX Runtime's own wrapper runs the graph on the CPU again unless told not to."""
    from onnxruntime.capi import _pybind_state

    opened = []
    kind = onnxruntime.InferenceSession
    monkeypatch.setattr(
        onnxruntime,
        "InferenceSession",
        lambda *a, **k: opened.append(kind(*a, **k)) or opened[-1],
    )

    class Failing:
        """A device that breaks when it runs; everything else is the session's."""

        def __init__(self, inner):
            self._inner = inner

        def __getattr__(self, name):
            return getattr(self._inner, name)

        def run(self, *_):
            raise _pybind_state.EPFail("the device is gone")

    session = OnnxRuntimeBackend().load(model, SCHEMES["fp8_weight_only"])
    for entry in opened:
        entry._sess = Failing(entry._sess)

    with pytest.raises(BackendError, match="the device is gone"):
        session.run({"x": x})


def test_a_provider_that_is_not_in_this_build_is_not_available(model):
    """The probe says which there are; loading raises the same."""
    backend = load_registry().backend("onnxruntime@vitisai")
    if "VitisAIExecutionProvider" in onnxruntime.get_available_providers():
        pytest.skip("this build has it")

    assert not backend.probe().available
    assert "no VitisAIExecutionProvider; it has" in backend.probe().reason
    with pytest.raises(UnsupportedError, match="no VitisAIExecutionProvider"):
        backend.load(model, None)


@pytest.mark.parametrize(
    ("name", "execution"), [("fp8_e4m3", "emulated"), ("int4", "mixed")]
)
def test_execution_says_which_kernels_ran(name, execution, model, calibration):
    """Packed INT4 matmuls are native kernels; everything else is decoded first."""
    scheme = calibrated(name, calibration)

    assert OnnxRuntimeBackend().load(model, scheme).arithmetic().execution == execution


def test_threads_come_from_the_environment(model, x, monkeypatch):
    """A number is used; anything else is wrong usage, named with the variable."""
    monkeypatch.setenv("QUANTHARNESS_THREADS", "1")
    one = OnnxRuntimeBackend().load(model, None).run({"x": x})["y"]
    assert one.shape == (24, 20) or one.ndim == 2

    monkeypatch.setenv("QUANTHARNESS_THREADS", "two")
    with pytest.raises(UsageError, match="QUANTHARNESS_THREADS='two'"):
        OnnxRuntimeBackend().load(model, None)


def test_a_closed_session_and_wrong_inputs_say_so(model, x):
    """Each is one `BackendError`; closing twice is fine."""
    session = OnnxRuntimeBackend().load(model, None)

    with pytest.raises(BackendError, match=r"inputs missing=\['x'\]"):
        session.run({})
    with pytest.raises(BackendError, match="failed while it ran"):
        session.run({"x": x[0]})
    session.close()
    session.close()
    with pytest.raises(BackendError, match="closed=True"):
        session.run({"x": x})


def test_supports_names_what_has_no_expression(model):
    """Operator by operator, before anything is loaded."""
    scheme = Scheme(
        name="own", weights=TensorScheme(format="nf4", granularity="channel")
    )

    found = OnnxRuntimeBackend().supports(model, scheme)

    assert not found.supported
    assert set(found.operators) == {"conv", "deep", "fc", "head"}
    assert "nf4" in found.reason
    assert OnnxRuntimeBackend().supports(model, SCHEMES["nvfp4"]).supported


def test_a_graph_that_does_not_load_is_one_error():
    """What ONNX Runtime says arrives in one line."""
    with pytest.raises(BackendError, match="does not load the model"):
        onnx_session.open_session(b"not a model")
