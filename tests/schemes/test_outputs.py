"""Rounded results: what a faithful backend gives is explained, defects are not."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest

from harness.errors import UnsupportedError, UsageError
from harness.judge.statistics.quadratic import energy_factor
from harness.schemes.apply import quantize_activation, quantize_weight
from harness.schemes.catalogue import SCHEMES, scheme_from_table
from harness.schemes.linear_algebra import add_bias, product
from harness.schemes.oracle import OperatorOracle
from harness.schemes.outputs import Grid, output_grid

#: What one of a thousand operators of a gate is held to.
FACTOR = energy_factor(0.01 / 1000)


def scheme(fmt, amax, results):
    """Static INT8, results rounded too, calibrated."""
    table = {"base": "int8_static", "outputs": {"format": fmt}}
    names = ("fc", "conv")
    return dataclasses.replace(
        scheme_from_table("rounded", table),
        calibration=dict.fromkeys(names, amax),
        output_calibration=dict.fromkeys(names, results),
    )


def unrounded(operator, chosen, x):
    """A faithful float32 result before it is rounded, with x * (1 / scale)."""
    entry = quantize_activation(operator, x, chosen)
    codes = np.rint(x * (np.float32(1) / entry.scales)).clip(-128, 127)
    decoded = (codes * entry.scales).astype(np.float32)
    weight = quantize_weight(operator, chosen).dequantize()
    return add_bias(operator, product(operator, decoded, weight)).astype(np.float32)


def rounded(grid, y):
    """Rounding in float32, by a reciprocal."""
    codes = np.rint(y * (np.float32(1) / np.float32(grid.scale)))
    return codes.clip(-grid.top - 1, grid.top).astype(np.float32) * np.float32(
        grid.scale
    )


def ratio(operator, chosen, x, y):
    """Root of residual over explained, in units of the limit."""
    oracle = OperatorOracle(operator, chosen)
    found = oracle(x, accumulate="fp32", output="fp32")
    residual, explained = oracle.against(found, y)
    return math.sqrt(residual / explained) / FACTOR


@pytest.fixture(params=["linear", "conv"])
def operator(request):
    """A linear layer and a convolution."""
    return request.getfixturevalue(request.param)


def inputs(operator, rng):
    """Enough of them that some results lie near the middle of two codes."""
    shape = (2000, 70) if operator.kind == "linear" else (20, 40, 9, 8)
    return rng.standard_normal(shape).astype(np.float32)


@pytest.mark.parametrize("fmt", ["int8", "int16"])
@pytest.mark.parametrize("results", [10.0, 60.0])
def test_a_faithful_backend_is_explained(operator, rng, fmt, results):
    """Codes that last bits decide, and saturated ones, are no defect."""
    x = inputs(operator, rng)
    chosen = scheme(fmt, 4.0, results)
    before = unrounded(operator, chosen, x)
    y = rounded(output_grid(operator, chosen), before)

    assert ratio(operator, chosen, x, y) <= 1


def test_results_in_the_middle_of_two_codes_may_get_either(linear, rng):
    """A whole step from the oracle, and not a defect."""
    x = inputs(linear, rng)
    chosen = scheme("int8", 4.0, 40.0)
    before = unrounded(linear, chosen, x)
    # One result is moved onto the edge, by the step that is chosen.
    value = float(before[np.abs(before) < 20][0])
    step = abs(value) / (np.floor(abs(value)) + 0.5)
    chosen = scheme("int8", 4.0, step * 127)
    grid = output_grid(linear, chosen)
    codes = before.astype(np.float64) / grid.scale
    place = np.unravel_index(np.abs(codes % 1 - 0.5).argmin(), codes.shape)
    for code in (np.floor(codes[place]), np.ceil(codes[place])):
        y = rounded(grid, before)
        y[place] = code * grid.scale
        assert ratio(linear, chosen, x, y) <= 1


@pytest.mark.parametrize("fmt", ["int8", "int16"])
@pytest.mark.parametrize(
    "defect",
    [
        lambda _, y, __: y,
        lambda grid, y, _: np.trunc(y / grid.scale) * grid.scale,
        lambda grid, y, _: (
            rounded(grid, y)
            + grid.scale * (np.arange(y.size) % 100 == 7).reshape(y.shape)
        ),
        lambda grid, y, bias: rounded(grid, y - bias) + bias,
        lambda grid, y, _: rounded(Grid(grid.scale * 1.01, grid.top), y),
        lambda grid, y, _: np.where(y > 30, -grid.top * grid.scale, rounded(grid, y)),
    ],
    ids=["dropped", "truncated", "one step", "before bias", "scale", "wraps"],
)
def test_a_defect_is_not_explained(linear, rng, fmt, defect):
    """Not rounded, rounded elsewhere or otherwise, one code of a hundred a step off."""
    x = inputs(linear, rng)
    chosen = scheme(fmt, 4.0, 40.0)
    before = unrounded(linear, chosen, x).astype(np.float64)
    y = defect(output_grid(linear, chosen), before, linear.bias)

    assert ratio(linear, chosen, x, y.astype(np.float32)) > 1


def test_a_flipped_code_of_the_input_is_explained(linear, rng):
    """The input's codes that last bits decide move results, and their codes."""
    x = inputs(linear, rng)
    chosen = scheme("int16", 127.0, 4000.0)
    x[:, 0] = np.float32(3.5)
    before = unrounded(linear, chosen, x)
    weight = quantize_weight(linear, chosen).dequantize()
    # 3.5 became 4, the even code; a scale in the last bit below makes it 3.
    other = before - weight[:, 0]
    grid = output_grid(linear, chosen)

    assert ratio(linear, chosen, x, rounded(grid, before)) <= 1
    assert ratio(linear, chosen, x, rounded(grid, other)) <= 1
    assert ratio(linear, chosen, x, rounded(grid, before - 2 * weight[:, 0])) > 1


def test_the_grid_is_onnx_s():
    """Ties to even, from -top - 1 to top, NaN stays."""
    grid = Grid(0.5, 127)
    y = np.array([0.25, 0.75, -0.25, 1e9, -1e9, np.nan])

    np.testing.assert_array_equal([0, 1, 0, 63.5, -64, np.nan], grid.round(y))


def test_a_residual_is_the_way_to_what_rounds_to_it():
    """0 inside of the interval; what is on no code is compared as it is."""
    grid = Grid(1.0, 127)
    y = np.array([3.0, 3.0, 3.0, 127.0, -128.0, 3.25])
    exact = np.array([2.6, 3.75, 2.0, 500.0, -500.0, 3.25])

    left = grid.residual(y, exact, exact)
    np.testing.assert_allclose([0, -0.25, 0.5, 0, 0, 0.25], left, atol=1e-5)


def test_an_operator_without_calibration_says_so(linear):
    """A golden of an older version holds no ranges of results."""
    chosen = dataclasses.replace(scheme("int8", 1.0, 1.0), output_calibration={})
    with pytest.raises(UnsupportedError, match="golden again"):
        output_grid(linear, chosen)


def test_a_range_of_zero_has_a_scale(linear):
    """Results that were all zero stay zero."""
    assert 1.0 == output_grid(linear, scheme("int8", 1.0, 0.0)).scale


@pytest.mark.parametrize(
    ("table", "words"),
    [
        ({"base": "int8_static", "outputs": "int8"}, "should be"),
        ({"base": "int8_static", "outputs": {"format": "fp8_e4m3"}}, "int16"),
        ({"base": "int8_static", "outputs": {"format": ["int8"]}}, "int16"),
        (
            {"base": "int8", "outputs": {"format": "int8", "granularity": "row"}},
            "'tensor'",
        ),
        ({"base": "int8", "outputs": {"format": "int8", "dynamic": True}}, "dynamic"),
        ({"kv_cache": {"format": "int8"}, "outputs": {"format": "int8"}}, "weights"),
    ],
)
def test_what_is_no_rounding_of_results_is_an_error(table, words):
    """Says what there is."""
    with pytest.raises(UsageError, match=words):
        scheme_from_table("mine", table)


def test_false_takes_it_away():
    """As for the other kinds of tensors; shipped schemes leave results alone."""
    found = scheme_from_table("mine", {"base": "int8", "outputs": False})

    assert found.outputs is None
    assert all(entry.outputs is None for entry in SCHEMES.values())
