"""What flushing subnormal numbers would take away is found in the output, or is not."""

from __future__ import annotations

import numpy as np
import pytest

from harness.backends.protocol import Arithmetic
from harness.compare.explained import Explained
from harness.judge.checks.flushed import flushed_p_value
from harness.models.types import Operator
from harness.numerics import FORMATS, Quantized, find_format
from harness.schemes.apply import quantize_activation, quantize_weight
from harness.schemes.catalogue import SCHEMES
from harness.schemes.linear_algebra import add_bias, product
from harness.schemes.oracle import subnormals

FP8 = SCHEMES["fp8_e4m3"]


def wide(rng, *shape):
    """Numbers over six decades, so that formats meet their smallest ones."""
    sizes = 10.0 ** rng.uniform(-6, 0, shape)
    return (sizes * rng.choice([-1.0, 1.0], shape)).astype(np.float32)


def layer(kind):
    """A linear layer, or a convolution in groups."""
    rng = np.random.default_rng(1)
    if kind == "linear":
        return Operator(name="fc", kind="linear", weight=wide(rng, 24, 192))
    return Operator(
        name="conv",
        kind="conv",
        weight=wide(rng, 8, 6, 3),
        bias=rng.standard_normal(8).astype(np.float32),
        groups=2,
        stride=(1,),
        padding=((1, 1),),
        dilation=(1,),
    )


def inputs(kind):
    rng = np.random.default_rng(2)
    return wide(rng, 3, 50, 192) if kind == "linear" else wide(rng, 4, 12, 40)


def computed(operator, x, scheme, flush=""):
    """In float32, as an engine does; subnormal numbers of `flush` are zero."""
    weight = quantize_weight(operator, scheme)
    values = weight.dequantize()
    if flush == "weights":
        values = values - subnormals(weight, values)
    if scheme.activations is not None:
        entry = quantize_activation(operator, x, scheme)
        x = entry.dequantize()
        if flush == "inputs":
            x = x - subnormals(entry, x)
    return add_bias(operator, product(operator, x, values))


def shares(operator, x, y, scheme, arithmetic=Arithmetic()):  # noqa: B008 - frozen
    explained = Explained(scheme, arithmetic, calls=2)
    # Twice, so that a call computes every second channel of many.
    explained.add(operator, x, y)
    explained.add(operator, x, y)
    return {entry.what: entry for entry in explained.result()[0].flushed}


@pytest.mark.parametrize("name", ["fp8_e4m3", "fp8_weight_only", "mxfp8"])
@pytest.mark.parametrize("kind", ["linear", "conv"])
def test_a_faithful_output_misses_nothing(kind, name):
    """Within its standard error; the hypothesis of a half is not rejected."""
    operator, x, scheme = layer(kind), inputs(kind), SCHEMES[name]

    found = shares(operator, x, computed(operator, x, scheme), scheme)

    quantized = {"weights"} if scheme.activations is None else {"weights", "inputs"}
    assert set(found) == quantized
    for entry in found.values():
        assert abs(entry.share) < 5 * entry.error
        assert flushed_p_value(entry) > 0.5


@pytest.mark.parametrize("what", ["weights", "inputs"])
@pytest.mark.parametrize("kind", ["linear", "conv"])
def test_what_is_flushed_is_missing(kind, what):
    """All of it, and of nothing else."""
    operator, x = layer(kind), inputs(kind)

    found = shares(operator, x, computed(operator, x, FP8, flush=what), FP8)

    assert found[what].prominence > 1
    assert found[what].share == pytest.approx(1, abs=0.05)
    assert flushed_p_value(found[what]) < 1e-9
    (other,) = set(found) - {what}
    assert flushed_p_value(found[other]) > 0.5


def test_formats_without_subnormal_numbers_are_not_asked():
    """Integers have none."""
    operator, x, scheme = layer("linear"), inputs("linear"), SCHEMES["int8"]

    assert shares(operator, x, computed(operator, x, scheme), scheme) == {}


def test_sums_that_cut_off_lose_small_products_by_design():
    """Nothing is asked of them."""
    operator, x = layer("linear"), inputs("linear")
    y = computed(operator, x, FP8, flush="weights")

    assert shares(operator, x, y, FP8, Arithmetic(accumulate="fp8_tensor_core")) == {}


def test_an_output_that_is_not_finite_is_not_asked():
    """It has failed already."""
    operator, x = layer("linear"), inputs("linear")
    y = computed(operator, x, FP8)
    y[0, 0, 0] = np.nan

    assert shares(operator, x, y, FP8) == {}


@pytest.mark.parametrize(
    "name", sorted(n for n, f in FORMATS.items() if f.kind == "float" and f.bits <= 8)
)
def test_subnormal_numbers_are_those_between_zero_and_the_smallest_normal(name):
    """Every code of every format; NaN and zero are none."""
    fmt = find_format(name)
    entry = Quantized(
        codes=np.arange(1 << fmt.bits).astype(np.uint8)[None],
        scales=np.ones((1, 1), np.float32),
        global_scale=1.0,
        format=name,
        axis=1,
        block=0,
        shape=(1, 1 << fmt.bits),
        rule=fmt.rule,
    )
    values = entry.dequantize()

    found = subnormals(entry, values)

    with np.errstate(invalid="ignore"):
        wanted = (np.abs(values) > 0) & (np.abs(values) < 2.0 ** (1 - fmt.bias))
    assert wanted.sum() == 2 * ((1 << fmt.mantissa) - 1)
    np.testing.assert_array_equal(found, np.where(wanted, values, 0))
