"""The product of an operator, against loops written for reading."""

from __future__ import annotations

import dataclasses
import itertools

import numpy as np
import pytest

from harness.schemes.linear_algebra import add_bias, product


def convolve_by_loops(operator, x):
    """Cross-correlation by its definition, one output element at a time."""
    padded = np.pad(x, [(0, 0), (0, 0), *operator.padding])
    kernel = operator.weight.shape[2:]
    sizes = [
        (padded.shape[2 + i] - operator.dilation[i] * (kernel[i] - 1) - 1)
        // operator.stride[i]
        + 1
        for i in range(len(kernel))
    ]
    out, per_group = operator.weight.shape[:2]
    result = np.zeros((x.shape[0], out, *sizes))
    for n, o in itertools.product(range(x.shape[0]), range(out)):
        first = o // (out // operator.groups) * per_group
        for at in itertools.product(*(range(size) for size in sizes)):
            for c in range(per_group):
                for tap in itertools.product(*(range(k) for k in kernel)):
                    where = tuple(
                        a * s + t * d
                        for a, s, t, d in zip(
                            at, operator.stride, tap, operator.dilation, strict=True
                        )
                    )
                    result[(n, o, *at)] += (
                        padded[(n, first + c, *where)] * operator.weight[(o, c, *tap)]
                    )
    return result


def test_a_linear_layer_is_a_product(linear, rng):
    """Leading axes are kept, the last one is reduced."""
    x = rng.standard_normal((2, 3, 70))

    found = product(linear, x, linear.weight.astype(np.float64))

    assert found.shape == (2, 3, 24)
    assert np.allclose(found[1, 2], linear.weight.astype(np.float64) @ x[1, 2])


def test_a_convolution_follows_its_definition(conv, rng):
    """Groups, stride, padding and dilation, all at once."""
    x = rng.standard_normal((2, 40, 5, 4))

    found = product(conv, x, conv.weight.astype(np.float64))

    assert np.allclose(found, convolve_by_loops(conv, x), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("portion", [1, 200, 4000])
def test_portions_join(portion, conv, rng, monkeypatch):
    """However few windows are copied at a time, every output is there."""
    x = rng.standard_normal((3, 40, 5, 4))
    monkeypatch.setattr("harness.schemes.linear_algebra._PORTION", portion)

    found = product(conv, x, conv.weight.astype(np.float64))

    assert np.allclose(found, convolve_by_loops(conv, x), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("out", [4, 8])
def test_depthwise_and_one_dimension(out, conv, rng):
    """One channel a group, with one or two outputs each."""
    operator = dataclasses.replace(
        conv,
        weight=rng.standard_normal((out, 1, 3)).astype(np.float32),
        stride=(1,),
        padding=((1, 1),),
        dilation=(1,),
        groups=4,
    )
    x = rng.standard_normal((2, 4, 6))

    found = product(operator, x, operator.weight.astype(np.float64))

    assert np.allclose(found, convolve_by_loops(operator, x), rtol=1e-12, atol=1e-12)


def test_a_bias_goes_along_the_output_channels(linear, conv):
    """Zero plus bias is the bias, in every row and position; no bias is nothing."""
    assert np.array_equal(
        add_bias(linear, np.zeros((2, 24))), np.tile(linear.bias, (2, 1))
    )
    spread = add_bias(conv, np.zeros((1, 6, 2, 2)))
    assert np.array_equal(spread[0, :, 1, 0], conv.bias)
    bare = dataclasses.replace(linear, bias=None)
    assert not add_bias(bare, np.zeros((2, 24))).any()
