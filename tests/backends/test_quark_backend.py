"""Quark's own operators; those that need its environment run where it was made."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

from harness.backends.quark_backend import DOMAIN, QuarkBackend
from harness.backends.registry import load_registry
from harness.cli.main import main
from harness.environments import launch, variables
from harness.schemes.catalogue import SCHEMES, scheme_by_name, scheme_from_table
from tests.backends.small_onnx import one_matmul

REASON = QuarkBackend().probe().reason
needs_quark = pytest.mark.skipif(bool(REASON), reason=f"quark: {REASON}")


@pytest.fixture
def model(tmp_path):
    """One MatMul of 64 terms."""
    return one_matmul(tmp_path)


def test_without_its_environment_it_says_what_makes_one(tmp_path, monkeypatch):
    """One command; and its worker is an ordinary one, which says so too."""
    monkeypatch.setenv("QUANTHARNESS_CACHE", str(tmp_path))

    found = QuarkBackend().probe()

    assert not found.available
    assert "`quantharness setup quark`" in found.reason
    assert load_registry().environment("quark") == {}


@pytest.mark.parametrize("scheme", sorted(SCHEMES))
def test_only_what_its_operator_rounds_is_supported(model, scheme):
    """Nothing runs in Quark's name that is none of its operators."""
    found = QuarkBackend().supports(model, scheme_by_name(scheme))

    assert found.supported == (scheme in ("mxfp8", "mxfp4", "bfp16"))
    assert found.supported or found.reason.startswith("quark: ")


def test_another_scale_rule_is_another_format(model):
    """Quark's ONNX operator floors, whatever its torch side does."""
    even = {"weights": {"format": "mxfp4"}, "activations": {"format": "mxfp4"}}
    even["activations"]["rule"] = "even"

    found = QuarkBackend().supports(model, scheme_from_table("even", even))

    assert "OCP's floor, not even" in found.reason


def test_every_input_goes_through_its_operator(model):
    """And nothing else rounds it."""
    built = QuarkBackend().build(model, SCHEMES["mxfp4"])

    nodes = [node for node in built.proto.graph.node if node.domain == DOMAIN]
    assert [node.op_type for node in nodes] == ["MXQuantizeDequantize"]
    found = {a.name: helper.get_attribute_value(a) for a in nodes[0].attribute}
    assert found["element_dtype"] == b"fp4_e2m1"
    assert (found["axis"], found["block_size"]) == (-1, 32)
    assert {entry.domain for entry in built.proto.opset_import} >= {DOMAIN}


def test_exported_weights_go_through_its_operator_too(model):
    """In float32, along the input channels, as Quark's own quantizer writes them."""
    backend = load_registry().backend("quark@exported")
    built = backend.build(model, SCHEMES["bfp16"])
    tensors = {tensor.name for tensor in built.proto.graph.initializer}
    nodes = [node for node in built.proto.graph.node if node.domain == DOMAIN]
    by_input = {node.input[0] in tensors: node for node in nodes}

    assert ["BFPQuantizeDequantize"] * 2 == [node.op_type for node in nodes]
    assert by_input[True].output[0] == built.weights["fc"]
    attributes = {a.name: a for a in by_input[True].attribute}
    assert attributes["axis"].i == 0
    assert backend.supports(model, SCHEMES["mxfp4_weight_only"]).supported
    assert not backend.supports(model, SCHEMES["int8_weight_only"]).supported


#: Quantizes a model by Quark's own quantizer and by both of ours; prints what differs.
SAME = """
import json
from pathlib import Path
import numpy as np, onnx, onnxruntime
from quark.onnx import ModelQuantizer, get_library_path
from quark.onnx.quantization.config import Config, get_default_config
from harness.backends.registry import load_registry
from harness.models.onnx_model import OnnxModel
from harness.schemes.catalogue import SCHEMES

class Reader:
    left = 2
    def get_next(self):
        self.left -= 1
        return {"x": draw((5, 70)).astype(np.float32)} if self.left >= 0 else None

draw = np.random.default_rng(0).standard_normal
x = draw((5, 70)).astype(np.float32)
different = {}
model = OnnxModel(Path("m.onnx"))
PRESETS = {"mxfp4": "MXFP4E2M1", "mxfp8": "MXFP8E4M3", "bfp16": "BFP16"}
for name, theirs in PRESETS.items():
    config = Config(global_quant_config=get_default_config(theirs))
    ModelQuantizer(config).quantize_model("m.onnx", f"{name}.onnx", Reader())
    made = onnx.load(f"{name}.onnx")
    raw = next(n.output[0] for n in made.graph.node if n.op_type == "MatMul")
    made.graph.output.append(onnx.ValueInfoProto(name=raw))
    options = onnxruntime.SessionOptions()
    options.register_custom_ops_library(get_library_path("CPU"))
    session = onnxruntime.InferenceSession(made.SerializeToString(), options)
    wanted = session.run([raw], {"x": x})[0]
    for backend in ("quark", "quark@exported"):
        ours = load_registry().backend(backend).load(model, SCHEMES[name])
        found = ours.run({"x": x})["y"]
        different[f"{backend} {name}"] = int((found != wanted).sum())
        stored = ours.artifact().weights["fc"]
        assert stored.format == SCHEMES[name].weights.format
        ours.close()
json.dump(different, open("different.json", "w"))
"""


@needs_quark
@pytest.mark.quant_slow
def test_it_computes_what_its_own_quantizer_writes(tmp_path):
    """To the last bit, weights stored as codes or rounded when the model runs."""
    weight = np.random.default_rng(1).standard_normal((70, 24)).astype(np.float32)
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["x", "w"], ["y"], "fc")],
        "g",
        [helper.make_tensor_value_info("x", 1, [5, 70])],
        [helper.make_tensor_value_info("y", 1, [5, 24])],
        [numpy_helper.from_array(weight, "w")],
    )
    opset = [helper.make_opsetid("", 17)]
    made = helper.make_model(graph, opset_imports=opset, ir_version=8)
    onnx.save(made, tmp_path / "m.onnx")
    (tmp_path / "same.py").write_text(SAME)
    environment = {**os.environ, **variables("quark")}
    path = [environment["PYTHONPATH"], str(tmp_path), str(Path.cwd())]
    environment["PYTHONPATH"] = os.pathsep.join(path)

    done = subprocess.run(
        launch("quark", "same"),
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
    )

    assert done.returncode == 0, done.stderr[-600:]
    different = json.loads((tmp_path / "different.json").read_text())
    assert len(different) == 6
    assert set(different.values()) == {0}


@needs_quark
@pytest.mark.parametrize("backend", ["quark", "quark@exported"])
def test_it_conforms(backend, capsys):
    """In its own environment: every code, every middle, tails, NaN, long sums."""
    arguments = ["conformance", "--backend", backend, "--json"]
    schemes = [f"--scheme={name}" for name in ("mxfp8", "mxfp4", "bfp16")]

    assert main([*arguments, *schemes]) == 0

    reports = json.loads(capsys.readouterr().out)["schemes"]
    assert [entry["level"] for entry in reports] == ["emulated"] * 3


@needs_quark
@pytest.mark.quant_slow
def test_a_suite_runs_on_it(tmp_path, capsys):
    """A real model: every operator explained."""
    arguments = ["run", "suites/vad", "--backend", "quark", "--json"]

    assert main([*arguments, "--out", str(tmp_path / "run")]) == 0

    targets = json.loads(capsys.readouterr().out)["targets"]
    assert [entry["verdict"] for entry in targets] == ["pass"] * 3
    for entry in targets:
        assert all(op["unexplained"] <= op["limit"] for op in entry["operators"])
