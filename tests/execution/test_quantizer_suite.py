"""A suite whose target is what ONNX Runtime's own quantizer makes of the model."""

from __future__ import annotations

import json

import numpy as np
import pytest

from harness.errors import UsageError
from harness.execution.api import record, run
from harness.execution.calibrated import calibrated
from harness.execution.suite import load_suite
from harness.golden.store import read_golden
from tests.schemes.quantized_files import inputs, network, quantized

SUITE = """\
[suite]
name = "tiny"
model = "model.onnx"
cases = "cases.jsonl"
reference = {{ backend = "torch", precision = "fp32" }}
batch = 4

[scheme.deployed]
quantizer = "onnxruntime:{function}"
options = {options}

[[target]]
backend = "onnxruntime"
scheme = "deployed"
"""


@pytest.fixture
def suite(tmp_path, monkeypatch):
    """A function that writes the suite with a quantizer; its cache is its own."""
    monkeypatch.setenv("QUANTHARNESS_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "suites" / "tiny"
    folder.mkdir(parents=True)
    network(folder)
    with (folder / "cases.jsonl").open("w") as file:
        for index in range(24):
            x = inputs(100 + index)[:1].round(3).tolist()
            file.write(json.dumps({"id": f"c{index:02}", "inputs": {"x": x}}) + "\n")

    def write(function, options="{}"):
        text = SUITE.format(function=function, options=options)
        (folder / "suite.toml").write_text(text)
        return folder

    return write


def test_the_quantizer_s_file_is_made_run_and_judged(suite, tmp_path):
    """Every operator is judged; before a run has made the file, others say so."""
    folder = suite("quantize_dynamic", "{ per_channel = true }")
    record([folder], allow_ci=True)
    loaded = load_suite(folder / "suite.toml", None)
    golden = read_golden(loaded.golden, suite="tiny")

    with pytest.raises(UsageError, match="has not quantized this model here yet"):
        calibrated(loaded.targets[0].scheme, golden)
    (target,) = run([folder]).targets

    assert str(target.verdict) == "pass", target.reason
    assert "3 operators hold int8" in target.checks[0].reason
    assert any("3 operators within" in check.reason for check in target.checks)
    assert len(list((tmp_path / "cache" / "quantized").glob("*.onnx"))) == 1
    made = calibrated(loaded.targets[0].scheme, golden)
    assert made.activations.format == "uint8"


def test_what_the_quantizer_refuses_is_the_target_s_verdict(suite):
    """A quantizer that leaves nothing in codes is not a pass."""
    folder = suite("quantize_dynamic", '{ op_types_to_quantize = ["Gather"] }')
    record([folder], allow_ci=True)

    (target,) = run([folder]).targets

    assert str(target.verdict) == "unsupported"
    assert "it is not quantized" in target.reason


def test_a_layer_of_a_file_is_not_rebuilt_alone(tmp_path):
    """A repro of one operator says that no model of it alone was wrong."""
    from harness.backends.onnxruntime_backend import OnnxRuntimeBackend
    from harness.execution.repro_run import _alone

    model, scheme = quantized(tmp_path, "onnxruntime:quantize_dynamic")
    operator = next(o for o in model.operators() if o.name == "fc")
    x = np.ones((1, 4), np.float32)

    assert _alone(OnnxRuntimeBackend(), operator, scheme, x) is False
