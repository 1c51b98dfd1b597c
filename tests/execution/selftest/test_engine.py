"""The self-test on a real suite: what is planted is caught, what is clean passes."""

from __future__ import annotations

import json

import pytest

from harness.cli.main import main
from harness.execution.selftest.api import selftest
from harness.execution.selftest.stage import Stage

pytestmark = pytest.mark.quant_slow
DEFECTS = ["scales_shifted_along_k", "bias_missing", "wrong_after_first_batch_entry"]
PLUGIN = '''
"""A torch that shows no operators, so that the gate has only outputs to go by."""
from harness.backends.torch_backend import TorchBackend


class Blind(TorchBackend):
    def load(self, model, scheme):
        session = super().load(model, scheme)
        if scheme is not None:
            run = session.run
            session.run = lambda inputs, *, capture=(): run(inputs)
        return session


def register(registry):
    registry.add_backend(Blind())
'''


def test_what_is_planted_in_a_real_model_is_caught_and_named(tmp_path):
    """Three defects in vad on torch, a clean run beside; the page and the JSON."""
    found = selftest(
        ["suites/vad"],
        backends=["torch"],
        schemes=["mxfp8"],
        defects=DEFECTS,
        strengths=["catalogue"],
        out=tmp_path,
    )

    assert found["caught"]["count"] == found["caught"]["of"] >= 4
    assert found["alarms"] == []
    assert found["controls"] == 1
    assert found["operator_right"]["share"] == 1
    assert found["cause_right"]["share"] == 1
    assert json.loads((tmp_path / "selftest.json").read_text())["matrix"]
    assert "bias_missing" in (tmp_path / "selftest.html").read_text()


def test_a_gate_that_sees_less_misses_more_and_says_so(tmp_path, capsys):
    """A backend without captures: exit 1, and the missed defect by name."""
    plugin = tmp_path / "blind.py"
    plugin.write_text(PLUGIN)
    arguments = ["selftest", "suites/vad", "--backend", "torch", "--scheme", "int8"]
    arguments += ["--defect", "input_rounded_toward_zero", "--plugin", str(plugin)]

    code = main([*arguments, "--json"])

    found = json.loads(capsys.readouterr().out)
    assert code == 1
    assert found["missed"]
    assert {entry["defect"] for entry in found["missed"]} == {
        "input_rounded_toward_zero"
    }


def test_the_smallest_strength_is_found_by_bisection():
    """Between what was missed and what was caught."""
    found = selftest(
        ["suites/vad"],
        backends=["torch"],
        schemes=["fp8_e4m3"],
        defects=["scale_ratio"],
        strengths=["catalogue"],
        places=["one"],
        bisect=True,
    )

    (threshold,) = found["thresholds"]
    assert threshold["caught"] <= 0.1
    assert threshold["missed"] is None or threshold["missed"] < threshold["caught"]


@pytest.mark.parametrize("backend", ["torch", "onnxruntime", "openvino@f32"])
def test_stored_bytes_are_planted_wherever_weights_are(backend):
    """What a file holds is wrong, and every engine is caught reading it."""
    if backend.startswith("openvino"):
        pytest.importorskip("openvino")
    found = selftest(
        ["suites/vad"],
        backends=[backend],
        schemes=["int8"],
        defects=["stored_scales_swapped", "stored_codes_off_by_one", "bias_missing"],
        strengths=["catalogue"],
        places=["one"],
    )

    assert found["planted"] == 3
    assert found["caught"]["count"] == 3
    assert found["alarms"] == []
    checks = {entry["defect"]: entry["check"] for entry in found["all"]}
    assert checks["stored_scales_swapped"] == "artifact"
    assert checks["stored_codes_off_by_one"] == "artifact"


def test_a_second_call_with_the_same_folder_runs_nothing_again(tmp_path, monkeypatch):
    """All trials are in the folder; the result is the same."""
    options = {
        "backends": ["torch"],
        "schemes": ["int8"],
        "defects": ["bias_missing"],
        "strengths": ["catalogue"],
        "controls": 2,
        "out": tmp_path,
    }
    first = selftest(["suites/vad"], **options)
    monkeypatch.setattr(Stage, "trial", None)

    again = selftest(["suites/vad"], **options)

    assert first == again
    assert again["controls"] == 2
    assert again["planted"] >= 1
