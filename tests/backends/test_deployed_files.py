"""Quantized ONNX files run as they are, and every operator is held to what they say."""

from __future__ import annotations

import dataclasses
import importlib.util

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from harness.backends.onnx_reference_backend import OnnxReferenceBackend
from harness.backends.onnxruntime_backend import OnnxRuntimeBackend
from harness.backends.torch_backend import TorchBackend
from harness.compare.explained import weight_evidence
from harness.schemes.checkpoint import (
    node_of_file,
    onnx_checkpoint,
    rounds_between,
    scheme_of_checkpoint,
)
from tests.backends.observed import beyond
from tests.schemes.quantized_files import INPUTS_ALONE, inputs, quantized

#: Name -> quantizer, options.
RECIPES = {
    "dynamic": ("onnxruntime:quantize_dynamic", {}),
    "dynamic by channel": ("onnxruntime:quantize_dynamic", {"per_channel": True}),
    "static": ("onnxruntime:quantize_static", {}),
    "static, inputs alone": ("onnxruntime:quantize_static", INPUTS_ALONE),
    "static, unsigned": (
        "onnxruntime:quantize_static",
        INPUTS_ALONE | {"activation_type": "QUInt8", "per_channel": True},
    ),
    "static, weights rounded when it runs": (
        "onnxruntime:quantize_static",
        INPUTS_ALONE
        | {
            "per_channel": True,
            "extra_options": INPUTS_ALONE["extra_options"]
            | {"AddQDQPairToWeight": True},
        },
    ),
    "static, FP8": (
        "onnxruntime:quantize_static",
        INPUTS_ALONE
        | {
            "activation_type": "QFLOAT8E4M3FN",
            "weight_type": "QFLOAT8E4M3FN",
            "calibrate_method": "Distribution",
        },
    ),
}


@pytest.mark.parametrize("recipe", RECIPES)
def test_every_operator_of_a_file_is_explained(recipe, tmp_path):
    """The engine computes what ONNX Runtime's quantizer wrote, optimizer off."""
    name, options = RECIPES[recipe]
    model, scheme = quantized(tmp_path, name, options)
    session = OnnxRuntimeBackend(optimization="off").load(model, scheme)

    ratios = beyond(model, scheme, session, inputs(9))

    assert set(ratios) == {"conv", "fc", "head"}
    assert max(ratios.values()) < 1


@pytest.mark.parametrize("backend", [OnnxReferenceBackend, OnnxRuntimeBackend])
def test_other_engines_run_the_same_file(backend, tmp_path):
    """The specification's evaluator explains every operator too."""
    name, options = RECIPES["dynamic by channel"]
    model, scheme = quantized(tmp_path, name, options)

    ratios = beyond(model, scheme, backend().load(model, scheme), inputs(9))

    assert max(ratios.values()) < 1


@pytest.mark.parametrize("recipe", RECIPES)
def test_the_artifact_shows_what_the_file_holds(recipe, tmp_path):
    """Formats, inputs and codes are the file's; decoded by the engine, bit for bit."""
    name, options = RECIPES[recipe]
    model, scheme = quantized(tmp_path, name, options)

    artifact = OnnxRuntimeBackend().load(model, scheme).artifact()

    assert set(artifact.activations) == {"conv", "fc", "head"}
    for operator in model.operators():
        shown = artifact.weights[operator.name]
        evidence = weight_evidence(operator, scheme, shown)
        assert evidence.found == scheme.weights.format
        assert evidence.unexplained == 0
        assert evidence.from_model < 0.1
        rounded = "rounded" in shown.stored_as
        assert rounded == (recipe == "static, weights rounded when it runs")
        # It is the codes that are small: what is rounded later is not.
        assert (shown.nbytes < operator.weight.nbytes) != rounded


def altered(tmp_path, tensor, change):
    """The static file with one constant changed, run; judged by the unchanged one."""
    name, options = RECIPES["static, inputs alone"]
    model, scheme = quantized(tmp_path, name, options)
    proto = onnx.load(tmp_path / "quantized.onnx")
    found = next(t for t in proto.graph.initializer if t.name == tensor)
    array = change(numpy_helper.to_array(found))
    found.CopyFrom(numpy_helper.from_array(array.astype(array.dtype), tensor))
    onnx.save(proto, tmp_path / "wrong.onnx")
    wrong = dataclasses.replace(scheme, checkpoint=str(tmp_path / "wrong.onnx"))
    session = OnnxRuntimeBackend(optimization="off").load(model, wrong)
    return beyond(model, scheme, session, inputs(9))


@pytest.mark.parametrize(
    ("tensor", "change", "operator"),
    [
        ("w_scale", lambda a: a * np.float32(1.01), "fc"),
        ("x_scale", lambda a: a * np.float32(1.02), "conv"),
        ("x_zero_point", lambda a: a + np.int8(1), "conv"),
        ("kb_quantized", lambda a: a + np.int32(1000), "conv"),
    ],
)
def test_what_runs_otherwise_than_the_file_says_is_unexplained(
    tensor, change, operator, tmp_path
):
    """A scale, a zero point or a bias that is another is beyond the limit."""
    ratios = altered(tmp_path, tensor, change)

    assert ratios.pop(operator) > 10
    assert max(ratios.values()) < 1


def test_what_lies_between_is_judged_only_where_the_file_leaves_it_alone(tmp_path):
    """Defaults round results too; the recipe of inputs alone does not."""
    full = quantized(tmp_path, *RECIPES["static"], file="full.onnx")[1]
    alone = quantized(tmp_path, *RECIPES["static, inputs alone"], file="alone.onnx")[1]

    assert "beside its layers" in rounds_between(full)
    assert rounds_between(alone) == ""


def test_a_bias_behind_a_rounding_is_no_part_of_what_is_judged(tmp_path):
    """Defaults round the product before its bias is added: it is seen before."""
    _, scheme = quantized(tmp_path, *RECIPES["static"])

    layer = node_of_file(scheme, "fc")

    assert layer.bias is None
    assert layer.result == "m"
    assert node_of_file(scheme, "conv").bias.shape == (8,)


def test_torch_says_that_files_run_on_engines_of_onnx(tmp_path):
    """Nothing is emulated in a file's name."""
    model, scheme = quantized(tmp_path, *RECIPES["dynamic"])

    found = TorchBackend().supports(model, scheme)

    assert not found.supported
    assert "on engines of ONNX" in found.reason


def test_openvino_runs_the_same_file(tmp_path):
    """Pinned to float32, it explains every operator of the dynamic recipe."""
    if importlib.util.find_spec("openvino") is None:
        pytest.skip("openvino is not installed")
    from harness.backends.openvino_backend import OpenVinoBackend

    model, scheme = quantized(tmp_path, "onnxruntime:quantize_static", INPUTS_ALONE)
    pinned = OpenVinoBackend.variants["f32"].options
    session = OpenVinoBackend(**pinned).load(model, scheme)

    ratios = beyond(model, scheme, session, inputs(9))

    assert set(ratios) == {"conv", "fc", "head"}
    assert onnx_checkpoint(scheme.checkpoint).others == 0
    assert max(ratios.values()) < 1
    assert scheme_of_checkpoint(tmp_path / "quantized.onnx").activations is not None
