"""Quark's own operators; those that need its environment run where it was made."""

from __future__ import annotations

import json

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

from harness.backends.quark_backend import DOMAIN, QuarkBackend
from harness.backends.registry import load_registry
from harness.cli.main import main
from harness.models.onnx_model import OnnxModel
from harness.schemes.catalogue import SCHEMES, scheme_by_name, scheme_from_table

REASON = QuarkBackend().probe().reason
needs_quark = pytest.mark.skipif(bool(REASON), reason=f"quark: {REASON}")


@pytest.fixture
def model(tmp_path):
    """One MatMul of 64 terms."""
    weight = np.random.default_rng(0).standard_normal((64, 24)).astype(np.float32)
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["x", "w"], ["y"], "fc")],
        "g",
        [helper.make_tensor_value_info("x", 1, ["n", 64])],
        [helper.make_tensor_value_info("y", 1, ["n", 24])],
        [numpy_helper.from_array(weight, "w")],
    )
    opset = [helper.make_opsetid("", 21)]
    onnx.save(helper.make_model(graph, opset_imports=opset), tmp_path / "m.onnx")
    return OnnxModel(tmp_path / "m.onnx")


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


@needs_quark
def test_it_conforms(capsys):
    """In its own environment: every code, every middle, tails, NaN, long sums."""
    arguments = ["conformance", "--backend", "quark", "--json"]
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
    assert [entry["verdict"] for entry in targets] == ["pass", "pass"]
    for entry in targets:
        assert all(op["unexplained"] <= op["limit"] for op in entry["operators"])
