"""ModelOpt is called in a process of its own, and its files are judged.

Most of it with a stand-in for its package; the last ones with the package itself.
"""

from __future__ import annotations

import importlib.util
import json
import os

import numpy as np
import onnx
import pytest

from harness.backends.onnxruntime_backend import OnnxRuntimeBackend
from harness.errors import MissingExtraError, ModelError, UsageError
from harness.models.onnx_model import OnnxModel
from harness.schemes import quantizers
from harness.schemes.catalogue import scheme_from_table
from harness.schemes.checkpoint import scheme_of_checkpoint
from harness.schemes.modelopt_quantizer import IMPORTS, NAME
from harness.schemes.quantizers import quantize_model
from tests.backends.observed import beyond
from tests.schemes.quantized_files import calls, inputs, network
from tests.schemes.stand_in import MODELOPT, stand_in

MISSING = [name for name in IMPORTS if importlib.util.find_spec(name) is None]
needed = pytest.mark.skipif(bool(MISSING), reason=f"not installed: {MISSING}")


@pytest.fixture
def seen(tmp_path, monkeypatch):
    """A function that quantizes by the stand-in and returns what it was shown."""
    folder = stand_in(
        tmp_path / "packages", MODELOPT, "modelopt.onnx.quantization", *IMPORTS[1:]
    )
    monkeypatch.syspath_prepend(folder)
    monkeypatch.setattr(quantizers, "find_spec", lambda name: name)
    monkeypatch.setenv("STAND_IN_SEEN", str(tmp_path / "seen.json"))

    def call(options, shown=calls):
        quantize_model(NAME, options, network(tmp_path), shown, tmp_path / "q.onnx")
        return json.loads((tmp_path / "seen.json").read_text())

    return call


def test_model_calls_and_options_reach_it(seen, tmp_path):
    """In another process; every call in order, again after it is rewound."""
    found = seen({"awqclip_alpha_min": 0.5})

    expected = [call["x"].tolist() for call in calls()]
    assert found["calls"] == expected
    assert found["first"] == expected[0]
    assert found["again"] == len(expected)
    assert found["eps"] == ["cpu"]
    assert found["kwargs"] == ["awqclip_alpha_min"]
    assert found["pid"] != os.getpid()
    assert scheme_of_checkpoint(tmp_path / "q.onnx").weights.format == "int8"
    assert {entry.name for entry in tmp_path.iterdir()} == {
        "model.onnx",
        "packages",
        "q.onnx",
        "seen.json",
    }


def test_its_own_devices_can_be_asked_for(seen):
    """The processor is what it gets where nothing is said."""
    assert seen({"calibration_eps": ["cuda:0", "cpu"]})["eps"] == ["cuda:0", "cpu"]


def test_four_bits_are_shown_calls_of_one_shape(seen):
    """AWQ concatenates them; of two shapes the one with more numbers is shown."""

    def mixed():
        for count, length in ((5, 6), (2, 6), (3, 9)):
            yield {"x": np.zeros((count, 8, length), np.float32)}

    found = seen({"quantize_mode": "int4"}, mixed)

    assert [np.shape(call) for call in found["calls"]] == [(5, 8, 6), (2, 8, 6)]


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"quantize_mode": "raises"}, ModelError, "fails .* KeyError: 'no such layer'"),
        ({"quantize_mode": "dies"}, ModelError, "ended with 3; it said: last words"),
        ({"quantize_mode": "forgets"}, ModelError, "its process ended with 0"),
        ({"quantise_mode": "fp8"}, UsageError, "did you mean 'quantize_mode'"),
        ({"model_id": "bert"}, UsageError, "has no option 'model_id'"),
        ({"output_path": "x"}, UsageError, "has no option 'output_path'"),
    ],
)
def test_what_goes_wrong_there_is_told_here(options, error, message, seen, tmp_path):
    """By the exception's name or the last words; nothing stands for its result."""
    with pytest.raises(error, match=message):
        seen(options)

    assert not (tmp_path / "q.onnx").exists()


@pytest.mark.parametrize("missing", [IMPORTS[0], IMPORTS[-1]])
def test_each_package_that_it_imports_is_asked_for(missing, tmp_path, monkeypatch):
    """ModelOpt's own message names an extra that brings gigabytes."""
    monkeypatch.setattr(
        quantizers, "find_spec", lambda name: None if name == missing else name
    )

    with pytest.raises(
        MissingExtraError, match=rf"{missing} .*quantharness\[modelopt\]"
    ):
        quantize_model(NAME, {}, network(tmp_path), calls, tmp_path / "q.onnx")


@pytest.mark.parametrize(
    ("options", "alone"),
    [({}, False), ({"quantize_mode": "fp8"}, False), ({"quantize_mode": "int4"}, True)],
)
def test_options_say_whether_inputs_are_rounded(options, alone):
    """Its 4-bit modes leave them alone: that is settled before it ran."""
    scheme = scheme_from_table("s", {"quantizer": NAME, "options": options})

    assert scheme.weight_only == alone


def made(folder, options):
    """The small model and the scheme of what the package itself makes of it.

    Its dimensions are named: see test_modelopt_findings.
    """
    proto = network(folder).onnx()
    for value in (*proto.graph.input, *proto.graph.output):
        value.type.tensor_type.shape.dim[0].dim_param = "N"
    onnx.save(proto, folder / "model.onnx")
    found = OnnxModel(folder / "model.onnx")
    quantize_model(NAME, options, found, calls, folder / "q.onnx")
    return found, scheme_of_checkpoint(folder / "q.onnx")


@needed
@pytest.mark.quant_slow
@pytest.mark.parametrize(
    ("mode", "form", "layers"),
    [
        ("int8", "int8", {"conv", "fc", "head"}),
        # Its FP8 leaves convolutions of few channels alone.
        ("fp8", "fp8_e4m3", {"fc", "head"}),
        ("int4", "int4", {"fc"}),
    ],
)
def test_every_operator_of_its_files_is_explained(mode, form, layers, tmp_path):
    """Weights in float32 that are rounded when it runs, or blocks of 4 bits."""
    options = {"quantize_mode": mode, "high_precision_dtype": "fp32"}
    if mode != "int4":
        # Else it leaves products of few columns to TensorRT.
        options["enable_gemv_detection_for_trt"] = False
    if mode == "int4":
        # Of a Gemm with transB blocks lie along the wrong axis: its findings file.
        options |= {"block_size": 16, "nodes_to_exclude": ["head"]}
    model, scheme = made(tmp_path, options)
    session = OnnxRuntimeBackend(optimization="off").load(model, scheme)

    ratios = beyond(model, scheme, session, inputs(9))

    artifact = session.artifact()
    assert set(artifact.weights) == layers
    assert all(shown.format == form for shown in artifact.weights.values())
    assert max(ratios[name] for name in layers) < 1


@needed
@pytest.mark.quant_slow
def test_half_precision_is_refused_by_the_layer_s_name(tmp_path):
    """Its default; what is computed in float16 is not judged."""
    with pytest.raises(ModelError, match=r"Conv conv: its weight is float16"):
        made(tmp_path, {})
