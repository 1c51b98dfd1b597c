"""A checkpoint as a scheme: what is stored is what is used."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from harness.errors import ModelError, UnsupportedError
from harness.models.checkpoint import Checkpoint
from harness.models.types import Operator
from harness.schemes.apply import plan_one, quantize_weight, static_scale
from harness.schemes.catalogue import SCHEMES
from harness.schemes.checkpoint import scheme_of_checkpoint, with_stored_bias

KEPT = Path(__file__).parents[1] / "models" / "checkpoints"
DOWN = "model.layers.0.mlp.down_proj"


def operator(name: str, shape: tuple[int, int] = (32, 64)) -> Operator:
    """A layer whose weights are nothing like the checkpoint's."""
    return Operator(name=name, kind="linear", weight=np.ones(shape, np.float32))


def test_weight_is_the_stored_one():
    """The model's own weight does not matter."""
    scheme = scheme_of_checkpoint(KEPT / "mo-nvfp4")
    found = quantize_weight(operator(DOWN), scheme).dequantize()
    with np.load(KEPT / "mo-nvfp4" / "decoded.npz") as decoded:
        assert np.array_equal(found, decoded[f"{DOWN}.weight"])


def test_name_without_prefix_finds_its_layer():
    """A body whose layers are called without "model." finds them."""
    scheme = scheme_of_checkpoint(KEPT / "mo-nvfp4")
    short = operator(DOWN.removeprefix("model."))
    assert plan_one(scheme, short).weights
    assert quantize_weight(short, scheme).format == "nvfp4"


def test_layer_that_is_not_stored_is_left_alone():
    """What the checkpoint left alone is not quantized, and says why."""
    scheme = scheme_of_checkpoint(KEPT / "ct-fp8")
    plan = plan_one(scheme, operator("lm_head"))
    assert not plan.weights
    assert not plan.activations
    assert plan.reason == "not quantized in the checkpoint"


def test_another_shape_is_refused():
    """A checkpoint of another model is not silently quantized again."""
    scheme = scheme_of_checkpoint(KEPT / "ct-fp8")
    with pytest.raises(UnsupportedError, match=r"\[32, 64\], but the model's"):
        quantize_weight(operator(DOWN, (32, 32)), scheme)


def test_static_scale_is_the_stored_one():
    """The inputs' scale needs no calibration."""
    scheme = scheme_of_checkpoint(KEPT / "mo-fp8")
    stored = Checkpoint(KEPT / "mo-fp8").layers[DOWN].input_scale()
    assert static_scale(operator(DOWN), scheme) == stored


@pytest.mark.parametrize(
    ("name", "weights", "inputs"),
    [
        ("ct-fp8", ("fp8_e4m3", "channel", None), ("fp8_e4m3", "row", True)),
        ("ct-fp8-block", ("fp8_e4m3", "block", 16), ("fp8_e4m3", "block", True)),
        ("ct-int4", ("int4", "block", 16), None),
        ("mo-fp8", ("fp8_e4m3", "tensor", None), ("fp8_e4m3", "tensor", False)),
        ("mo-nvfp4", ("nvfp4", "block", None), ("nvfp4", "block", False)),
        ("qk-mxfp6", ("mxfp6_e2m3", "block", None), None),
    ],
)
def test_scheme_says_what_the_configuration_says(name, weights, inputs):
    """Formats, granularities and whether inputs are dynamic are the configuration's."""
    scheme = scheme_of_checkpoint(KEPT / name)
    assert scheme.name == f"checkpoint-{name}"
    tensor = scheme.weights
    assert (tensor.format, tensor.granularity, tensor.block) == weights
    tensor = scheme.activations
    found = tensor and (tensor.format, tensor.granularity, tensor.dynamic)
    assert found == inputs


def test_mixed_checkpoint_is_refused(tmp_path):
    """Layers of two formats are no one scheme, and that is said."""
    import json
    import shutil

    folder = tmp_path / "mixed"
    shutil.copytree(KEPT / "mo-nvfp4", folder)
    config = json.loads((folder / "config.json").read_text())
    config["quantization_config"] = {
        "quant_method": "modelopt",
        "quant_algo": "MIXED_PRECISION",
        "quantized_layers": {DOWN: {"quant_algo": "FP8"}, "b": {"quant_algo": "NVFP4"}},
    }
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(ModelError, match=r"2 ways \(fp8_e4m3, nvfp4\)"):
        scheme_of_checkpoint(folder)


def test_without_a_file_an_operator_keeps_its_bias():
    """What is asked of every scheme: most have no file."""
    operator = Operator(
        name="fc",
        kind="linear",
        weight=np.ones((2, 4), np.float32),
        bias=np.array([1.0, 2.0], np.float32),
    )

    assert with_stored_bias(SCHEMES["int8"], operator) is operator
