"""Checkpoints decode to what the vendors' own libraries decode them to."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import pytest

from harness.errors import ModelError
from harness.models.checkpoint import Checkpoint

from .folders import BASE, DOWN, KEPT, NAMES, copied, edit_json, rewrite


@pytest.mark.parametrize("name", NAMES)
def test_bit_equal_to_vendor(name: str) -> None:
    """Every layer's weights are the vendor's own, to the last bit."""
    with np.load(KEPT / name / "decoded.npz") as decoded:
        layers = Checkpoint(KEPT / name).layers
        assert {f"{layer}.weight" for layer in layers} == set(decoded.files)
        for layer, stored in layers.items():
            found = np.asarray(stored.read().dequantize())
            wanted = decoded[f"{layer}.weight"]
            if wanted.dtype == np.uint16:
                # The vendor rounds the product to the type of the scales.
                found = found.astype(ml_dtypes.bfloat16).view(np.uint16)
            assert np.array_equal(found, wanted)


@pytest.mark.parametrize("name", NAMES)
def test_weights_are_complete(name: str) -> None:
    """Every weight of the base is there, in its shape; those kept are the base's."""
    base = {tensor.name: tensor.read() for tensor in Checkpoint(BASE).tensors.values()}
    found = {
        key: value
        for key, value in Checkpoint(KEPT / name).weights()
        if key.endswith("weight")
    }
    assert {k: v.shape for k, v in base.items()} == {
        k: v.shape for k, v in found.items()
    }
    assert np.array_equal(found["lm_head.weight"], base["lm_head.weight"])


def test_reads_scale_inv_as_a_factor(tmp_path):
    """FP8 in boxes as DeepSeek stores it: `weight_scale_inv` multiplies."""
    folder = copied("ct-fp8-block", tmp_path)

    def rename(arrays):
        for name in [n for n in arrays if n.endswith("weight_scale")]:
            arrays[f"{name}_inv"] = arrays.pop(name).astype(np.float32)

    rewrite(folder, rename)
    edit_json(
        folder / "config.json",
        lambda config: config.update(
            quantization_config={
                "quant_method": "fp8",
                "weight_block_size": [16, 16],
                "modules_to_not_convert": ["lm_head"],
            }
        ),
    )
    wanted = Checkpoint(KEPT / "ct-fp8-block").layers[DOWN].read().dequantize()
    found = Checkpoint(folder).layers[DOWN].read().dequantize()
    assert np.array_equal(found, wanted)


def test_input_scale_of_modelopt():
    """The stored scale of the inputs is a factor, one number."""
    scale = Checkpoint(KEPT / "mo-nvfp4").layers[DOWN].input_scale()
    assert scale is not None
    assert 0 < scale < 1
    assert Checkpoint(KEPT / "ct-fp8").layers[DOWN].input_scale() is None


def test_unquantized_folder_says_so():
    """A folder that is not quantized is not taken for one that is."""
    with pytest.raises(ModelError, match="no quantization_config"):
        _ = Checkpoint(BASE).config


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"quant_method": "gptq"}, "'gptq', but should be one of compressed-tensors"),
        ({"config_groups": {}}, "has no config_groups"),
        ({"sparsity_config": {"format": "sparse-24"}}, "sparsity_config is not empty"),
        ({"config_groups": {"g": {"weights": {}, "format": "x"}}}, "format='x'"),
    ],
)
def test_unknown_configuration_names_what_is_read(tmp_path, change, message):
    """What cannot be read is refused with the key and what is known."""
    folder = copied("ct-fp8", tmp_path)
    edit_json(
        folder / "config.json",
        lambda config: config["quantization_config"].update(change),
    )
    with pytest.raises(ModelError, match=message):
        _ = Checkpoint(folder).config


def test_missing_scale_of_packed_weight_is_an_error(tmp_path):
    """Codes without their scale are an error that names the layer."""
    folder = copied("ct-nvfp4", tmp_path)
    rewrite(folder, lambda arrays: arrays.pop(f"{DOWN}.weight_scale"))
    with pytest.raises(ModelError, match=r"down_proj: 'weight_scale' is missing"):
        Checkpoint(folder).layers[DOWN].read()
