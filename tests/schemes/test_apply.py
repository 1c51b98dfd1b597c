"""What a scheme does to each operator."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from harness.errors import UnsupportedError
from harness.numerics import quantize
from harness.schemes.apply import (
    plan,
    quantize_activation,
    quantize_weight,
    static_scale,
)
from harness.schemes.catalogue import SCHEMES


def test_a_pattern_keeps_operators_and_says_so(linear, conv):
    """A kept operator is left alone with its reason; others are not."""
    scheme = dataclasses.replace(SCHEMES["fp8_e4m3"], keep=("con*",))

    found = plan(scheme, [linear, conv])

    assert found["fc"].weights
    assert found["fc"].activations
    assert not found["conv"].weights
    assert "kept by the scheme ('con*')" in found["conv"].reason


def test_a_depthwise_convolution_has_no_blocks(conv):
    """One channel a group leaves nothing to share a scale along."""
    depthwise = dataclasses.replace(
        conv, weight=conv.weight[:, :1].repeat(1, 1), groups=6
    )

    assert not plan(SCHEMES["mxfp4"], [depthwise])["conv"].weights
    assert "no block" in plan(SCHEMES["int4"], [depthwise])["conv"].reason
    assert plan(SCHEMES["fp8_e4m3"], [depthwise])["conv"].weights


def test_a_weight_only_scheme_leaves_activations(linear):
    """Only weights are quantized where the scheme names nothing else."""
    found = plan(SCHEMES["nvfp4_weight_only"], [linear])["fc"]

    assert (found.weights, found.activations) == (True, False)


@pytest.mark.parametrize("name", sorted(SCHEMES))
def test_weights_share_scales_as_the_scheme_says(name, linear, conv):
    """Channels have one scale each; blocks run along the input channels."""
    scheme = SCHEMES[name]
    for operator in (linear, conv):
        scales = quantize_weight(operator, scheme).scales
        out, length, *rest = operator.weight.shape
        if scheme.weights.granularity == "channel":
            assert scales.size == out
        else:
            sizes = {"nvfp4": 16, "bfp16": 8}
            size = scheme.weights.block or sizes.get(scheme.weights.format, 32)
            assert scales.shape == (out, -(-length // size), *rest)


def test_a_row_of_a_linear_input_has_its_own_scale(linear, rng):
    """Scaling one row changes that row's scale alone."""
    x = rng.standard_normal((2, 3, 70)).astype(np.float32)
    louder = x.copy()
    louder[1, 2] *= 16

    found = [quantize_activation(linear, v, SCHEMES["fp8_e4m3"]) for v in (x, louder)]

    changed = found[0].scales != found[1].scales
    assert found[0].scales.shape == (2, 3, 1)
    assert changed.sum() == 1
    assert changed[1, 2, 0]


def test_a_sample_of_a_convolution_has_its_own_scale(conv, rng):
    """Positions overlap, so a convolution's row is a whole sample."""
    x = rng.standard_normal((4, 40, 5, 6)).astype(np.float32)

    scales = quantize_activation(conv, x, SCHEMES["int8"]).scales

    assert scales.reshape(-1).shape == (4,)


def test_a_static_scale_is_the_calibrated_one(linear, rng):
    """The input at hand does not move a static scale."""
    scheme = dataclasses.replace(SCHEMES["fp8_e4m3_static"], calibration={"fc": 8.96})
    x = rng.standard_normal((3, 70)).astype(np.float32) * 100

    found = quantize_activation(linear, x, scheme)

    assert found.scales.reshape(-1)[0] == np.float32(8.96) / np.float32(448)
    assert np.abs(found.dequantize()).max() == pytest.approx(8.96)


def test_nvfp4_holds_the_calibrated_tensor_scale(linear, rng):
    """Block scales follow the input, the tensor's scale does not."""
    scheme = dataclasses.replace(SCHEMES["nvfp4"], calibration={"fc": 2688.0})

    found = quantize_activation(linear, np.ones((1, 70), np.float32), scheme)

    assert found.global_scale == 1.0
    assert static_scale(linear, scheme) == 1.0


def test_a_calibrated_zero_scales_by_one(linear):
    """An input that was always zero has a scale that divides."""
    scheme = dataclasses.replace(SCHEMES["int8_static"], calibration={"fc": 0.0})

    assert static_scale(linear, scheme) == 1.0


def test_without_calibration_a_static_scheme_says_what_to_do(linear):
    """The message names the operator and the command's purpose."""
    with pytest.raises(UnsupportedError, match="largest input of fc: record") as found:
        quantize_activation(
            linear, np.ones((1, 70), np.float32), SCHEMES["int8_static"]
        )

    assert found.value.operator == "fc"


def test_the_rule_reaches_numerics(linear):
    """Two rules give two weights; the scheme's is the one used."""
    base = SCHEMES["mxfp4_weight_only"]
    scheme = dataclasses.replace(
        base, weights=dataclasses.replace(base.weights, rule="ceil")
    )

    found = quantize_weight(linear, scheme).dequantize()

    expected = quantize(linear.weight, "mxfp4", axis=1, rule="ceil").dequantize()
    other = quantize(linear.weight, "mxfp4", axis=1, rule="floor").dequantize()
    assert np.array_equal(found, expected)
    assert not np.array_equal(found, other)
