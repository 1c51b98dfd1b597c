"""Libraries' quantizers are called as a suite says, and say what does not fit."""

from __future__ import annotations

import dataclasses
from datetime import date

import pytest

from harness.errors import MissingExtraError, ModelError, UsageError
from harness.schemes import quantizers
from harness.schemes.catalogue import scheme_from_table
from harness.schemes.quantizers import QUANTIZERS, quantize_model, quantized_file
from tests.schemes.quantized_files import calls, network

DYNAMIC = "onnxruntime:quantize_dynamic"


def test_options_reach_the_quantizer(tmp_path):
    """Names of enumerations become their members: weights are unsigned then."""
    from harness.schemes.checkpoint import scheme_of_checkpoint

    model = network(tmp_path)
    options = {"weight_type": "QUInt8", "per_channel": True}
    quantize_model(DYNAMIC, options, model, calls, tmp_path / "q.onnx")

    scheme = scheme_of_checkpoint(tmp_path / "q.onnx")

    assert scheme.weights.format == "uint8"
    assert scheme.weights.granularity == "channel"
    assert scheme.activations.dynamic


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"per_chanel": True}, "no option 'per_chanel'; did you mean 'per_channel'"),
        ({"weight_type": "QInt9"}, "weight_type='QInt9', but should be one of .*QInt8"),
    ],
)
def test_options_that_are_not_there_are_told(options, message, tmp_path):
    """The function's own parameters are what may be said."""
    with pytest.raises(UsageError, match=message):
        quantize_model(DYNAMIC, options, network(tmp_path), calls, tmp_path / "q.onnx")

    assert not (tmp_path / "q.onnx").exists()


def test_a_quantizer_that_fails_leaves_no_file(tmp_path, monkeypatch):
    """What it raised is told with its name; nothing stands for its result."""

    def broken(*_):
        raise RuntimeError("no such layer")

    entry = dataclasses.replace(QUANTIZERS[DYNAMIC], call=broken)
    monkeypatch.setitem(QUANTIZERS, DYNAMIC, entry)

    with pytest.raises(ModelError, match=r"quantize_dynamic fails .* no such layer"):
        quantize_model(DYNAMIC, {}, network(tmp_path), calls, tmp_path / "q.onnx")

    assert not (tmp_path / "q.onnx").exists()


def test_a_package_that_is_missing_is_told_with_its_extra(tmp_path, monkeypatch):
    """One command adds it."""
    monkeypatch.setattr(quantizers, "find_spec", lambda _: None)

    with pytest.raises(MissingExtraError, match=r"quantharness\[nncf\]"):
        quantize_model(
            "nncf:quantize", {}, network(tmp_path), calls, tmp_path / "q.onnx"
        )


def test_another_file_for_all_that_makes_it_another(monkeypatch):
    """Model, options, version and, where it calibrates, cases are in the name."""
    static = "onnxruntime:quantize_static"
    first = quantized_file(static, {}, "model", "cases")

    others = {
        quantized_file(static, {}, "other", "cases"),
        quantized_file(static, {}, "model", "other"),
        quantized_file(static, {"per_channel": True}, "model", "cases"),
        quantized_file(DYNAMIC, {}, "model", "cases"),
    }
    assert quantized_file(DYNAMIC, {}, "model", "a") == quantized_file(
        DYNAMIC, {}, "model", "b"
    )
    monkeypatch.setattr(quantizers, "version", lambda _: "0")
    others.add(quantized_file(static, {}, "model", "cases"))

    assert len(others | {first}) == 6


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ({"quantizer": "onnxruntime:quantize"}, "did you mean 'onnxruntime:quantize_"),
        ({"quantizer": 8}, "quantizer=8, but should be one of"),
        ({"quantizer": DYNAMIC, "options": 1}, "options=1, but should be a table"),
        (
            {"quantizer": DYNAMIC, "options": {"a": [date(2026, 1, 2)]}},
            "but should hold texts, numbers, .*date is not JSON",
        ),
        ({"quantizer": DYNAMIC, "weights": False}, "unknown key scheme.s.weights"),
    ],
)
def test_tables_say_what_is_wrong(table, message):
    """The key, what was found, what was meant."""
    with pytest.raises(UsageError, match=message):
        scheme_from_table("s", table)


@pytest.mark.parametrize("name", QUANTIZERS)
def test_whether_inputs_are_rounded_is_known_before_it_ran(name):
    """Verdicts of weight-only schemes are judged end to end: that is settled first."""
    scheme = scheme_from_table("s", {"quantizer": name})

    assert scheme.weight_only == (not QUANTIZERS[name].inputs)
