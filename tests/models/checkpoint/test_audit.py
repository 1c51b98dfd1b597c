"""What an audit finds in checkpoints that were spoilt; clean ones are clean."""

from __future__ import annotations

import json

import ml_dtypes
import numpy as np
import pytest

from harness.errors import ModelError
from harness.models.checkpoint import audit

from .folders import BASE, DOWN, KEPT, NAMES, copied, edit_json, edit_tensor, rewrite

HEAD = "lm_head.weight"


@pytest.mark.parametrize("name", NAMES)
def test_what_vendors_wrote_is_clean(name):
    """Every kept checkpoint, beside the model that it was made of."""
    found = audit(KEPT / name, BASE)

    assert found.ok, [str(finding) for finding in found.findings]
    assert list(found.layers.values()) == [7]
    assert found.plain == 5
    assert len(found.errors) == 7
    # Rounding to the nearest is as good as it gets with these scales, or nearly.
    assert all(0 < error < 0.2 for error, _ in found.errors.values())
    assert all(0.5 < beside < 1.5 for _, beside in found.errors.values())


def first(value):
    """A change of a tensor: its first entry becomes `value`."""

    def change(array):
        array.reshape(-1)[0] = value
        return array

    return change


def spoilt(name, to, tensor, change):
    """A copy with one tensor changed in place."""
    folder = copied(name, to)
    edit_tensor(folder, tensor, change)
    return folder


@pytest.mark.parametrize(
    ("name", "tensor", "change", "text"),
    [
        ("ct-fp8", f"{DOWN}.weight_scale", first(np.nan), "1 of 32 scales are NaN"),
        ("ct-fp8", f"{DOWN}.weight_scale", first(-1), "1 of 32 scales are negative"),
        ("ct-fp8", f"{DOWN}.weight_scale", first(0), "1 of 32 scales are zero, with"),
        ("qk-mxfp4", f"{DOWN}.weight_scale", first(255), "1 of 64 scales are NaN"),
        ("mo-nvfp4", f"{DOWN}.weight_scale_2", first(np.inf), "tensor's scale is inf"),
        ("ct-nvfp4", f"{DOWN}.weight_global_scale", first(0), "tensor's scale is inf"),
        ("mo-fp8", f"{DOWN}.input_scale", first(0), "the scale of its inputs is 0"),
        ("ct-fp8", f"{DOWN}.weight", first(np.nan), "1 of 2048 weights are NaN"),
        ("ct-fp8", f"{DOWN}.weight", np.zeros_like, "all weights decode to 0"),
        ("ct-fp8", f"{DOWN}.weight", np.negative, "2 of the original's norm away"),
        ("ct-int4", HEAD, first(7), "1 of 512 values are not the original's"),
    ],
)
def test_a_spoilt_tensor_is_named(name, tensor, change, text, tmp_path):
    """One finding, with the tensor, what was found and what it should be."""
    found = audit(spoilt(name, tmp_path, tensor, change), BASE)

    assert not found.ok
    assert {finding.tensor for finding in found.findings} <= {DOWN, HEAD}
    assert any(text in finding.text for finding in found.findings), found.findings


def replaced(name, array):
    """A change of all tensors: one of them becomes another array, or goes."""

    def change(arrays):
        if array is None:
            del arrays[name]
        else:
            arrays[name] = array(arrays.get(name))

    return change


@pytest.mark.parametrize(
    ("name", "tensor", "array", "text"),
    [
        (
            "ct-fp8",
            f"{DOWN}.weight",
            lambda a: a.view(np.int8),
            "codes are I8, but should be F8_E4M3 or U8 for fp8_e4m3",
        ),
        (
            "ct-fp8",
            f"{DOWN}.weight_scale",
            lambda a: np.repeat(a, 2, axis=1),
            "scales have shape [32, 2], but should have [32, 1]",
        ),
        (
            "ct-fp8",
            f"{DOWN}.weight_scale",
            lambda a: a[:1],
            "scales have shape [1, 1], but should have [32, 1]",
        ),
        ("ct-fp8", f"{DOWN}.weight", None, "scales without codes"),
        ("mo-fp8", f"{DOWN}.input_scale", None, "the scale of its inputs is missing"),
        ("ct-int4", f"{DOWN}.weight_shape", None, "weight_shape"),
        ("ct-int4", HEAD, None, "missing, but should be there"),
        ("ct-int4", HEAD, lambda a: a[:8], "shape [8, 32], but should be [16, 32]"),
        ("ct-int4", "extra.bias", lambda _: np.ones(3, np.float32), "no such tensor"),
    ],
)
def test_a_tensor_of_another_kind_is_named(name, tensor, array, text, tmp_path):
    """Types, shapes, and what is missing or too much."""
    folder = copied(name, tmp_path)
    rewrite(folder, replaced(tensor, array))

    found = audit(folder, BASE)

    assert any(text in finding.text for finding in found.findings), found.findings


def test_a_layer_that_was_to_be_quantized_is_missed(tmp_path):
    """It holds plain weights, with no scale."""
    folder = copied("ct-fp8", tmp_path)

    def plain(arrays):
        del arrays[f"{DOWN}.weight_scale"]
        wide = arrays[f"{DOWN}.weight"].astype(np.float32)
        arrays[f"{DOWN}.weight"] = wide.astype(ml_dtypes.bfloat16)

    def another(arrays):
        # Another layer of the same kind, so that the name is known.
        arrays["model.layers.1.mlp.down_proj.weight"] = arrays[f"{DOWN}.weight"]
        arrays["model.layers.1.mlp.down_proj.weight_scale"] = arrays[
            f"{DOWN}.weight_scale"
        ]

    rewrite(folder, another)
    rewrite(folder, plain)

    (finding,) = audit(folder).findings
    assert finding.tensor == DOWN
    assert "BF16 without scales, but should be fp8_e4m3" in finding.text


def test_a_layer_that_was_to_be_left_alone_is_found(tmp_path):
    """The configuration ignores it; the file has its codes."""
    folder = copied("ct-fp8", tmp_path)
    edit_json(
        folder / "config.json",
        lambda table: table["quantization_config"]["ignore"].append(DOWN),
    )

    (finding,) = audit(folder).findings
    assert finding.check == "left alone"
    assert f"config.json ignores it ('{DOWN}')" in finding.text


def test_nothing_quantized_is_a_finding(tmp_path):
    """An empty promise is no clean audit."""
    folder = copied("ct-fp8", tmp_path)

    def plain(arrays):
        for name in list(arrays):
            if name.endswith("weight_scale"):
                del arrays[name]

    rewrite(folder, plain)
    found = audit(folder)
    assert any("quantized layers=0" in finding.text for finding in found.findings)


def test_what_cannot_be_read_says_why(tmp_path):
    """Truncated, a pointer, no quantization, another method."""
    folder = copied("ct-fp8", tmp_path)
    file, config = folder / "model.safetensors", folder / "config.json"
    whole = file.read_bytes()

    file.write_bytes(whole[:-100])
    with pytest.raises(ModelError, match="truncated; download it again"):
        audit(folder)
    file.write_bytes(b"version https://git-lfs.github.com/spec/v1\n")
    with pytest.raises(ModelError, match="git-LFS pointer"):
        audit(folder)
    file.unlink()
    with pytest.raises(ModelError, match=r"no model\.safetensors"):
        audit(folder)
    with pytest.raises(ModelError, match="no quantization_config"):
        audit(BASE)
    config.write_text(json.dumps({"quantization_config": {"quant_method": "awq"}}))
    with pytest.raises(ModelError, match="quant_method='awq', but should be one of"):
        audit(folder)
