"""`quantharness audit`: exit codes, lines, JSON."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from harness.cli.main import main

KEPT = Path(__file__).parents[1] / "models" / "checkpoints"


def test_a_clean_checkpoint_is_0(capsys):
    """With what was looked at, and how far the worst layer is."""
    base = str(KEPT / "base")
    assert main(["audit", str(KEPT / "mo-nvfp4"), "--base", base]) == 0

    out = capsys.readouterr().out
    assert "7 as nvfp4 quantized layers by modelopt" in out
    assert "5 tensors left alone" in out
    assert "furthest from the original: model.layers.0." in out
    assert "nothing is wrong: tensors agree with configuration and original" in out


def test_another_original_is_1(tmp_path, capsys):
    """The file, the tensor, what was found; as JSON too."""
    config = json.loads((KEPT / "ct-fp8" / "config.json").read_text())
    config["quantization_config"]["ignore"].append("model.layers.0.mlp.up_proj")
    for name in ("config.json", "model.safetensors"):
        (tmp_path / name).write_bytes((KEPT / "ct-fp8" / name).read_bytes())
    (tmp_path / "config.json").write_text(json.dumps(config))

    assert main(["audit", str(tmp_path)]) == 1
    out = capsys.readouterr().out
    assert f"{tmp_path / 'model.safetensors'}: model.layers.0.mlp.up_proj: " in out
    assert "\n1 finding\n" in out

    assert main(["audit", str(tmp_path), "--json"]) == 1
    found = json.loads(capsys.readouterr().out)
    assert (found["schema"], found["ok"]) == (1, False)
    assert found["findings"][0]["tensor"] == "model.layers.0.mlp.up_proj"
    assert found["layers"] == {"fp8_e4m3": 6}


@pytest.mark.parametrize(
    ("arguments", "code", "text"),
    [
        (["audit", "nowhere"], 2, "nowhere: no such folder"),
        (["audit", str(KEPT / "ct-fp8"), "--base", "gone"], 2, "gone: no such folder"),
        (["audit", str(KEPT / "base")], 2, "no quantization_config"),
    ],
)
def test_what_is_no_checkpoint_says_so(arguments, code, text, capsys):
    """Wrong usage, as for any model that cannot be read."""
    assert main(arguments) == code
    assert text in capsys.readouterr().err
