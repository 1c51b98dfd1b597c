"""Faithful arithmetic stays below what theory explains; defects do not."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest

from harness.judge.statistics.quadratic import energy_factor
from harness.numerics import FORMATS, quantize
from harness.schemes.apply import quantize_activation, quantize_weight
from harness.schemes.catalogue import SCHEMES
from harness.schemes.linear_algebra import add_bias, product
from harness.schemes.oracle import OperatorOracle, dequantized_weights

#: What one of a thousand operators of a gate is held to.
FACTOR = energy_factor(0.01 / 1000)


def calibrated(name, x):
    """A scheme that knows the largest input."""
    amax = {n: float(np.abs(x).max()) for n in ("fc", "conv")}
    return dataclasses.replace(SCHEMES[name], calibration=amax)


def emulate(operator, scheme, x, *, reciprocal=False, weight=None):
    """A faithful backend in float32: quantizes, multiplies, adds the bias."""
    if scheme.activations is not None:
        entry = quantize_activation(operator, x, scheme)
        if reciprocal and not entry.block:
            # x * (1 / s) instead of x / s, which is what fast kernels do.
            unit = (x * (np.float32(1) / entry.scales)).astype(np.float32)
            codes = quantize(unit, entry.format, axis=None, scale=np.float32(1))
            x = (codes.dequantize() * entry.scales).astype(np.float32)
        else:
            x = entry.dequantize()
    if weight is None:
        weight = quantize_weight(operator, scheme).dequantize()
    return add_bias(operator, product(operator, x, weight).astype(np.float32))


def ratio(operator, scheme, x, y):
    """Root of residual over explained, in units of the limit."""
    oracle = OperatorOracle(operator, scheme)
    residual, explained = oracle.against(oracle(x, accumulate="fp32", output="fp32"), y)
    return math.sqrt(residual / explained) / FACTOR


def on_edges(x, largest, middles):
    """`x` with the quotients by its static scale in the middle between two codes."""
    scale = np.float32(np.abs(x).max()) / np.float32(largest)
    index = np.abs(x / scale)[..., None] - middles
    nearest = middles[np.abs(index).argmin(axis=-1)]
    return (np.sign(x) * nearest * scale).astype(np.float32)


@pytest.fixture
def inputs(rng):
    """Inputs by operator name, with a row of zeros and numbers on edges."""
    codes = FORMATS["fp8_e4m3"].decoded
    values = np.sort(codes[np.isfinite(codes) & (codes >= 0)]).astype(np.float32)
    of_fp8 = (values[1:] + values[:-1]) / 2
    of_int8 = np.arange(0.5, 127, dtype=np.float32)
    x = rng.standard_normal((40, 70)).astype(np.float32)
    image = rng.standard_normal((4, 40, 9, 7)).astype(np.float32)
    x[3] = 0
    found = {}
    for name, array in (("fc", x), ("conv", image)):
        half, quarter = len(array) // 2, len(array) // 4
        on_fp8, on_int8 = on_edges(array, 448, of_fp8), on_edges(array, 127, of_int8)
        # The largest value stays as it is, so that the scale does.
        top = np.abs(array) == np.abs(array).max()
        edges = array.copy()
        edges[:quarter] = on_fp8[:quarter]
        edges[quarter:half] = on_int8[quarter:half]
        found[name] = np.where(top, array, edges)
    return found


@pytest.mark.parametrize("name", sorted(SCHEMES))
@pytest.mark.parametrize("kind", ["linear", "conv"])
@pytest.mark.parametrize("reciprocal", [False, True])
def test_faithful_float32_is_explained(name, kind, reciprocal, request, inputs):
    """Whichever way the quotient is computed, the residual is below the limit."""
    operator = request.getfixturevalue(kind)
    x = inputs[operator.name]
    scheme = calibrated(name, x)

    y = emulate(operator, scheme, x, reciprocal=reciprocal)

    assert ratio(operator, scheme, x, y) < 1


def test_reciprocals_do_flip_codes(linear, inputs):
    """The test above is not vacuous: without reading flips off, it would fail."""
    x = inputs["fc"]
    scheme = calibrated("int8_static", x)
    y = emulate(linear, scheme, x, reciprocal=True)
    oracle = OperatorOracle(linear, scheme)
    found = oracle(x, accumulate="fp32", output="fp32")

    raw = float(np.square(y - found.exact).sum())
    resolved, explained = oracle.against(found, y)

    assert math.sqrt(raw / explained) > 10 * FACTOR
    assert math.sqrt(resolved / explained) < FACTOR


def roll(weight):
    """Scales that belong to the neighbouring block: values keep their codes."""
    return np.roll(weight, 16, axis=1)


def truncate(operator, scheme):
    """Codes rounded towards zero."""
    exact = quantize_weight(operator, scheme)
    over = np.abs(exact.dequantize()) > np.abs(operator.weight)
    magnitude = exact.codes & 7
    lower = np.where(over & (magnitude > 0), exact.codes - 1, exact.codes)
    return dataclasses.replace(exact, codes=lower.astype(np.uint8)).dequantize()


@pytest.mark.parametrize("kind", ["linear", "conv"])
@pytest.mark.parametrize(
    ("name", "defect"),
    [
        ("nvfp4", "truncate"),
        ("mxfp4", "truncate"),
        ("mxfp4", "roll"),
        ("nvfp4", "roll"),
        ("fp8_e4m3", "scale"),
        ("int8_static", "scale"),
    ],
)
def test_a_planted_defect_is_far_beyond_the_limit(name, defect, kind, request, inputs):
    """A wrong rounding, a rolled scale and 0.2% on one scale all stand out tenfold."""
    operator = request.getfixturevalue(kind)
    x = inputs[operator.name]
    scheme = calibrated(name, x)
    weight = quantize_weight(operator, scheme).dequantize()
    weight = {
        "truncate": lambda: truncate(operator, scheme),
        "roll": lambda: roll(weight),
        "scale": lambda: weight * np.float32(1.002),
    }[defect]()

    y = emulate(operator, scheme, x, weight=weight)

    assert ratio(operator, scheme, x, y) > 10


def test_a_wrong_input_scale_is_beyond_the_limit(linear, inputs):
    """One scale a tensor where one a row was declared."""
    x = inputs["fc"] * np.linspace(1, 8, 40, dtype=np.float32)[:, None]
    scheme = calibrated("fp8_e4m3", x)
    per_tensor = quantize(x, "fp8_e4m3", axis=None).dequantize()
    weight = quantize_weight(linear, scheme).dequantize()

    y = add_bias(linear, product(linear, per_tensor, weight))

    assert ratio(linear, scheme, x, y) > 10


def test_a_coarser_accumulator_must_be_declared(linear, inputs):
    """FP16 sums are beyond FP32's limit, and within their own."""
    x = inputs["fc"]
    scheme = SCHEMES["int4"]
    weight = quantize_weight(linear, scheme).dequantize()
    y = np.zeros((40, 24), np.float16)
    for k in range(70):
        y += (x[:, k : k + 1] * weight[:, k]).astype(np.float16)
    y = y.astype(np.float32) + linear.bias
    oracle = OperatorOracle(linear, scheme)

    ratios = {}
    for declared in ("fp32", "fp16"):
        found = oracle(x, accumulate=declared, output="fp32")
        residual, explained = oracle.against(found, y)
        ratios[declared] = math.sqrt(residual / explained) / FACTOR

    assert ratios["fp32"] > 10
    assert ratios["fp16"] < 1


def test_the_variance_of_a_random_order_sum_is_the_stated_one(rng):
    """Sums in random orders, each rounding drawn: the mean energy is u^2/3 (...)."""
    length, u = 60, 2.0**-8
    products = rng.standard_normal(length) + 0.5
    total, squares = products.sum(), np.square(products).sum()
    stated = u * u / 3 * (length * total**2 / 3 + length * squares / 6)

    errors = []
    for _ in range(4000):
        partial = np.cumsum(rng.permutation(products))
        errors.append((rng.uniform(-u, u, length) * partial).sum())

    assert np.square(errors).mean() == pytest.approx(stated, rel=0.1)


def test_a_kept_operator_is_its_own_oracle(linear, inputs):
    """An operator that is left alone has no quantization error."""
    scheme = dataclasses.replace(SCHEMES["fp8_e4m3"], keep=("fc",))

    found = OperatorOracle(linear, scheme)(
        inputs["fc"], accumulate="fp32", output="fp32"
    )

    assert np.array_equal(found.exact, found.full)


def test_oracle_weights_are_those_of_quantized_operators(linear, conv):
    """Kept operators are not listed; others are decoded exactly."""
    scheme = dataclasses.replace(SCHEMES["mxfp4_weight_only"], keep=("conv",))

    found = dequantized_weights([linear, conv], scheme)

    assert list(found) == ["fc"]
    expected = quantize(linear.weight, "mxfp4", axis=1).dequantize()
    assert np.array_equal(found["fc"], expected)


@pytest.mark.parametrize("name", sorted(SCHEMES))
@pytest.mark.parametrize("kind", ["linear", "conv"])
def test_inputs_that_are_not_finite_give_nan_and_no_error(name, kind, request, inputs):
    """A NaN that an operator before let through is a finding, not a failed run."""
    operator = request.getfixturevalue(kind)
    x = inputs[operator.name].copy()
    scheme = calibrated(name, x)
    x.reshape(-1)[5] = np.nan

    found = OperatorOracle(operator, scheme)(x, accumulate="fp32", output="fp32")

    # INT8 has no NaN: with static scales only the unquantized output shows it.
    assert np.isnan(found.exact + found.full).any()
