"""AMD Quark quantizes in its own environment, and its files are judged.

Most of it with a stand-in for its package, in this environment; the last ones with the
package itself, where `quantharness setup quark` has made its own.
"""

from __future__ import annotations

import json
import subprocess

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

from harness.backends.onnxruntime_backend import OnnxRuntimeBackend
from harness.environments import interpreter, variables
from harness.errors import ModelError, UnsupportedError, UsageError
from harness.models.checkpoint.onnx_file import OnnxCheckpoint
from harness.schemes import apart, quantizers
from harness.schemes.catalogue import scheme_from_table
from harness.schemes.quantizers import QUANTIZERS, quantize_model, quantized_file
from harness.schemes.quark_quantizer import CONFIGS, ENVIRONMENT
from tests.backends.observed import beyond
from tests.models.graphs import model, random
from tests.schemes.quantized_files import calls, inputs, network, quantized
from tests.schemes.stand_in import QUARK, stand_in

needed = pytest.mark.skipif(
    interpreter(ENVIRONMENT) is None, reason="`quantharness setup quark` was not run"
)
#: Leaves what lies between operators alone.
LAYERS = {"op_types_to_quantize": ["Conv", "Gemm", "MatMul"]}


@pytest.fixture
def seen(tmp_path, monkeypatch):
    """A function that quantizes by the stand-in and returns what it was shown."""
    folder = stand_in(tmp_path / "packages", QUARK, "quark.onnx.quantization.config")
    (folder / "quark/onnx/__init__.py").write_text(
        "from quark.onnx.quantization.config import *\n"
    )
    monkeypatch.syspath_prepend(folder)
    monkeypatch.setattr(quantizers, "is_inside", lambda name: name == ENVIRONMENT)
    monkeypatch.setattr(apart, "is_inside", lambda name: name == ENVIRONMENT)
    monkeypatch.setenv("STAND_IN_SEEN", str(tmp_path / "seen.json"))

    def call(options, name="quark:XINT8"):
        quantize_model(name, options, network(tmp_path), calls, tmp_path / "q.onnx")
        return json.loads((tmp_path / "seen.json").read_text())

    return call


def test_configuration_options_and_calls_reach_it(seen, tmp_path):
    """Fields are set, enumerations by name; extra options are added to its own."""
    found = seen(
        {
            "per_channel": True,
            "calibrate_method": "MinMSE",
            "extra_options": {"more": 1},
        }
    )

    assert found["config"] == "XINT8"
    assert found["per_channel"]
    assert found["calibrate_method"] == "PowerOfTwoMethod.MinMSE"
    assert found["extra_options"] == {"own": 2, "more": 1}
    assert found["calls"] == [call["x"].tolist() for call in calls()]
    assert found["again"] == found["length"] == len(found["calls"])
    assert (tmp_path / "q.onnx").exists()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"per_chanel": True}, "quark:XINT8 has no option 'per_chanel'; did you mean"),
        ({"crypto_mode": True}, "has no option 'crypto_mode'"),
        ({"per_channel": "yes"}, "per_channel='yes', but should be a bool"),
        ({"extra_options": 1}, "extra_options=1, but should be a dict"),
        ({"calibrate_method": "MinMsE"}, "one of MinMax, .*did you mean 'MinMSE'"),
    ],
)
def test_options_that_are_not_there_are_told(options, message, seen, tmp_path):
    """The fields of its configuration are what may be said."""
    with pytest.raises(UsageError, match=message):
        seen(options)

    assert not (tmp_path / "q.onnx").exists()


def test_an_environment_that_is_missing_is_told_with_its_command(tmp_path, monkeypatch):
    """One command makes it."""
    monkeypatch.setenv("QUANTHARNESS_CACHE", str(tmp_path / "cache"))

    with pytest.raises(UnsupportedError, match="`quantharness setup quark` makes its"):
        quantize_model("quark:XINT8", {}, network(tmp_path), calls, tmp_path / "q.onnx")


def test_a_configuration_that_is_not_there_is_told():
    """With the one that was probably meant."""
    with pytest.raises(UsageError, match="did you mean 'quark:XINT8'"):
        scheme_from_table("s", {"quantizer": "quark:XINT"})


def test_another_environment_is_another_file(monkeypatch):
    """Its versions are those of its lock, whatever is installed here."""
    first = quantized_file("quark:XINT8", {}, "model", "cases")
    monkeypatch.setattr(quantizers, "version", lambda _: "0")

    assert quantized_file("quark:XINT8", {}, "model", "cases") == first
    assert quantized_file("quark:A8W8", {}, "model", "cases") != first


@pytest.mark.parametrize(
    "kind",
    ["MXQuantizeDequantize", "BFPQuantizeDequantize", "ExtendedDequantizeLinear"],
)
def test_its_own_operators_are_refused_by_name(kind, tmp_path):
    """A weight that they round may not pass for one that was left alone."""
    nodes = [
        helper.make_node(kind, ["w"], ["d"], name="round_w", domain="com.amd.quark"),
        helper.make_node("MatMul", ["x", "d"], ["y"], name="fc"),
    ]
    proto = model(nodes, {"x": [None, 8]}, {"y": [None, 4]}, {"w": random(8, 4)})
    onnx.save(proto, tmp_path / "one.onnx")

    with pytest.raises(ModelError, match=rf"{kind} round_w: {kind} is not read here"):
        OnnxCheckpoint(tmp_path / "one.onnx")


def test_a_bias_by_onnx_runtime_s_own_decoding_is_read(tmp_path):
    """A8W8 writes all of it in the domain com.microsoft, also INT32 biases."""
    domain = "com.microsoft"
    nodes = [
        helper.make_node("DequantizeLinear", ["b", "bs"], ["c"], "db", domain=domain),
        helper.make_node("DequantizeLinear", ["w", "ws"], ["d"], "dw", domain=domain),
        helper.make_node("Gemm", ["x", "d", "c"], ["y"], "fc"),
    ]
    held = {"w": np.ones((8, 4), np.int8), "b": np.arange(4, dtype=np.int32)}
    scales = {"ws": np.float32(0.5), "bs": np.float32(0.25)}
    proto = model(nodes, {"x": [None, 8]}, {"y": [None, 4]}, {})
    proto.graph.initializer.extend(
        numpy_helper.from_array(np.asarray(a), n) for n, a in (held | scales).items()
    )
    onnx.save(proto, tmp_path / "one.onnx")

    layer = OnnxCheckpoint(tmp_path / "one.onnx").layers["fc"]

    assert np.array_equal(layer.bias, [0, 0.25, 0.5, 0.75])
    assert np.array_equal(layer.read().dequantize(), np.full((4, 8), 0.5))


@needed
@pytest.mark.quant_slow
@pytest.mark.parametrize("name", ["quark:XINT8", "quark:A8W8"])
def test_every_operator_of_its_files_is_explained(name, tmp_path):
    """Powers of two, and scales of any value in ONNX Runtime's own domain."""
    made, scheme = quantized(tmp_path, name, LAYERS)
    session = OnnxRuntimeBackend(optimization="off").load(made, scheme)

    ratios = beyond(made, scheme, session, inputs(9))

    assert scheme.weights.format == "int8"
    assert set(ratios) == {"conv", "fc", "head"}
    assert max(ratios.values()) < 1


@needed
@pytest.mark.quant_slow
def test_mx_is_refused_by_name(tmp_path):
    """Its operators round and decode in one: what they are held to is not read."""
    with pytest.raises(ModelError, match=r"MXQuantizeDequantize .* is not read here"):
        quantized(tmp_path, "quark:MXFP4E2M1", LAYERS)


@needed
@pytest.mark.quant_slow
def test_the_configurations_are_quark_s(tmp_path):
    """A name that it has not is a name that nobody can use."""
    python = interpreter(ENVIRONMENT)
    listing = (
        "from quark.onnx.quantization.config import DefaultConfigMapping as m; "
        "print('names', *m)"
    )
    listed = subprocess.run(
        [python, "-c", listing],
        capture_output=True,
        text=True,
        check=True,
        env=variables(ENVIRONMENT),
    )

    assert set(CONFIGS) <= set(listed.stdout.rpartition("names")[2].split())
    assert {f"quark:{name}" for name in CONFIGS} <= set(QUANTIZERS)
