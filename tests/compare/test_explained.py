"""Sums over observed operators, and the evidence of stored weights."""

from __future__ import annotations

import numpy as np
import pytest

from harness.backends.protocol import Arithmetic, QuantizedTensor
from harness.compare.explained import Explained, other_codes, weight_evidence
from harness.models.types import Operator
from harness.schemes.apply import quantize_activation, quantize_weight
from harness.schemes.catalogue import SCHEMES

SCHEME = SCHEMES["fp8_e4m3"]


@pytest.fixture
def operator():
    """A small linear layer."""
    rng = np.random.default_rng(3)
    return Operator(
        name="fc",
        kind="linear",
        weight=rng.standard_normal((8, 32)).astype(np.float32),
        bias=rng.standard_normal(8).astype(np.float32),
    )


@pytest.fixture
def observed(operator):
    """An input and what a faithful backend makes of it."""
    x = np.random.default_rng(4).standard_normal((6, 32)).astype(np.float32)
    decoded = quantize_activation(operator, x, SCHEME).dequantize()
    weight = quantize_weight(operator, SCHEME).dequantize()
    return x, decoded @ weight.T + operator.bias


def explain(operator, *pairs):
    """Evidence of one operator."""
    explained = Explained(SCHEME, Arithmetic())
    for x, y in pairs:
        explained.add(operator, x, y)
    (found,) = explained.result("native")
    return found


def test_parts_pool_to_the_whole(operator, observed):
    """Two batches have the sums of one that holds both."""
    x, y = observed

    whole = explain(operator, (x, y))
    parts = explain(operator, (x[:2], y[:2]), (x[2:], y[2:]))

    for name in ("residual_sq", "quantization_sq", "signal_sq", "explained_sq"):
        assert getattr(parts, name) == pytest.approx(getattr(whole, name), rel=1e-9)
    assert parts.elements == whole.elements == 48
    assert parts.execution == "native"


def test_a_faithful_output_is_explained_and_a_wrong_one_is_not(operator, observed):
    """The residual is small against quantization only where nothing is wrong."""
    x, y = observed

    right = explain(operator, (x, y))
    wrong = explain(operator, (x, y * np.float32(1.01)))

    assert right.residual_sq < 20 * right.explained_sq
    assert right.residual_sq < 1e-8 * right.quantization_sq
    assert wrong.residual_sq > 1e-3 * wrong.quantization_sq
    assert wrong.residual_sq > 1e6 * wrong.explained_sq


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_what_is_not_finite_is_counted_and_never_explained(value, operator, observed):
    """One NaN or Inf makes the residual infinite, whatever comes after."""
    x, y = observed
    broken = y.copy()
    broken[1, 2] = value

    found = explain(operator, (x, broken), (x, y))

    assert found.nonfinite == 1
    assert found.residual_sq == np.inf


def test_an_output_of_another_shape_is_never_explained(operator, observed):
    """Shapes are compared, not broadcast."""
    x, y = observed

    assert explain(operator, (x, y[:1])).residual_sq == np.inf


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_what_comes_in_broken_is_never_explained(value, operator, observed):
    """NaN in, NaN out is not agreement; the other sums stay finite."""
    x, y = observed
    broken = x.copy()
    broken[0, 0] = value

    found = explain(operator, (x, y), (broken, np.full_like(y, np.nan)))

    assert found.residual_sq == np.inf
    assert np.isfinite([found.quantization_sq, found.signal_sq]).all()


def test_nothing_observed_is_no_evidence():
    """No operator is invented."""
    assert Explained(SCHEME, Arithmetic()).result() == ()


def test_a_float64_backend_has_less_to_explain(operator, observed):
    """What is declared decides what is explained."""
    x, y = observed
    exact = Explained(SCHEME, Arithmetic(accumulate="fp64", output="fp64"))
    exact.add(operator, x, y)

    assert (
        exact.result()[0].explained_sq < 1e-10 * explain(operator, (x, y)).explained_sq
    )


def shown(operator, change=None):
    """The weight as a faithful backend shows it, or with a change."""
    exact = quantize_weight(operator, SCHEME)
    decoded = exact.dequantize().copy()
    scales = np.array(exact.scales)
    if change == "decoded":
        decoded[0] *= np.float32(1.002)
    if change == "nan":
        scales[1] = np.nan
    if change == "zero":
        scales[:2] = [[0], [-1]]
    return QuantizedTensor(
        format="fp8_e4m3", stored_as="float8_e4m3fn", scales=scales, decoded=decoded
    )


def test_a_faithful_weight_has_nothing_unexplained(operator):
    """Bit for bit is exactly zero."""
    found = weight_evidence(operator, SCHEME, shown(operator))

    assert (found.expected, found.found) == ("fp8_e4m3", "fp8_e4m3")
    assert found.unexplained == 0
    assert found.nonfinite_scales == found.unusable_scales == 0
    assert found.elements == 256


def test_a_changed_weight_is_measured_in_quantization_noise(operator):
    """0.2% on one channel of eight is a visible share of FP8's own error."""
    found = weight_evidence(operator, SCHEME, shown(operator, "decoded"))

    assert 0.01 < found.unexplained < 0.2


def test_scales_that_cannot_be_are_counted(operator):
    """NaN is not finite; zero and negative are not usable."""
    assert weight_evidence(operator, SCHEME, shown(operator, "nan")).nonfinite_scales
    found = weight_evidence(operator, SCHEME, shown(operator, "zero"))
    assert found.unusable_scales == 2


def test_a_weight_that_is_not_shown_is_not_found(operator):
    """Nothing shown is told apart from something right."""
    found = weight_evidence(operator, SCHEME, None)

    assert (found.expected, found.found, found.unexplained) == ("fp8_e4m3", "", None)


def test_a_weight_of_another_shape_is_infinitely_wrong(operator):
    """A transposed weight is not compared element by element."""
    right = shown(operator)
    wrong = QuantizedTensor(
        format=right.format,
        stored_as=right.stored_as,
        scales=right.scales,
        decoded=np.zeros((32, 8), np.float32),
    )

    assert weight_evidence(operator, SCHEME, wrong).unexplained == np.inf


@pytest.fixture
def wide():
    """A layer of 193 channels, so that four calls can share them."""
    rng = np.random.default_rng(5)
    weight = rng.standard_normal((193, 32)).astype(np.float32)
    return Operator(name="wide", kind="linear", weight=weight)


def calls(operator, count, spoil=None):
    """Evidence of several faithful calls; one channel of all may be spoilt."""
    explained = Explained(SCHEME, Arithmetic(), calls=count)
    weight = quantize_weight(operator, SCHEME).dequantize()
    for seed in range(count):
        x = np.random.default_rng(seed).standard_normal((6, 32)).astype(np.float32)
        y = quantize_activation(operator, x, SCHEME).dequantize() @ weight.T
        if spoil is not None:
            y[:, spoil] *= 1.05
        explained.add(operator, x, y)
    (found,) = explained.result()
    return found


@pytest.mark.parametrize(
    ("count", "elements"), [(1, 193), (3, 193), (4, 193), (8, 386)]
)
def test_calls_share_the_channels_and_leave_none_out(wide, count, elements):
    """Every row of every call is checked, every channel in one call of four."""
    assert calls(wide, count).elements == 6 * elements


@pytest.mark.parametrize("channel", [0, 1, 2, 3, 100, 191, 192])
def test_one_wrong_channel_is_seen_whichever_it_is(wide, channel):
    """The last one too, beyond the last whole stride."""
    clean, spoilt = calls(wide, 4), calls(wide, 4, channel)

    assert clean.residual_sq < 1e-3 * spoilt.residual_sq


def test_an_output_that_lacks_a_channel_is_never_explained(wide):
    """Although the channels of that call may all be there."""
    explained = Explained(SCHEME, Arithmetic(), calls=4)
    x = np.ones((6, 32), np.float32)
    explained.add(wide, x, np.ones((6, 192), np.float32))

    assert np.isinf(explained.result()[0].residual_sq)


def test_nan_in_a_channel_that_is_not_computed_counts(wide):
    """What is not finite is looked for everywhere."""
    explained = Explained(SCHEME, Arithmetic(), calls=4)
    y = np.ones((6, 193), np.float32)
    y[2, 1] = np.nan
    explained.add(wide, np.ones((6, 32), np.float32), y)

    assert 1 == explained.result()[0].nonfinite


def test_another_code_is_told_from_a_rounding_more():
    """Whatever its scale; NaN is never the right code."""
    exact = np.array([448.0, 1e-6, 0.0, -2.0], np.float32)

    assert other_codes(exact * np.float32(1 + 2**-10), exact) == 0
    assert other_codes(exact * np.float32([1, 1.0625, 1, 1]), exact) == 1
    assert other_codes(exact + np.float32([0, 0, 1e-9, 0]), exact) == 0
    assert other_codes(exact + np.float32([0, 0, 1e-8, 0]), exact) == 1
    assert other_codes(np.full(4, 1e-9, np.float32), np.zeros(4, np.float32)) == 4
    assert other_codes(np.full(4, np.nan, np.float32), exact) == 4


def test_a_value_that_is_flushed_to_zero_is_not_another_code():
    """Nor what a flushed scale makes of its codes; the next larger must be there."""
    exact = np.array([2.0**-127, -(2.0**-149), 2.0**-126, -1.0], np.float32)
    flushed = np.where(np.abs(exact) < 2.0**-126, 0, exact)
    codes = np.array([1, -127, 448, 512], np.float32)
    scaled = codes * np.float32(2.0**-126 - 2.0**-149)
    without = np.where(np.abs(codes) <= 448, 0, scaled)

    assert other_codes(flushed, exact) == 0
    assert other_codes(without, scaled) == 0
    assert other_codes(np.zeros(4, np.float32), scaled) == 1
