"""Weights that are scale * code - offset: two sums are as faithful as one."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest

from harness.judge.statistics.quadratic import energy_factor
from harness.models.types import Operator
from harness.schemes.apply import quantize_activation, quantize_weight
from harness.schemes.catalogue import scheme_from_table
from harness.schemes.oracle import OperatorOracle

BLOCKS = {"granularity": "block", "rule": "ggml"}
SCHEME = scheme_from_table(
    "q4_k",
    {
        "weights": {**BLOCKS, "format": "uint4", "block": 32},
        "activations": {**BLOCKS, "format": "int8", "block": 256},
    },
)
#: What one of a thousand operators of a gate is held to.
FACTOR = energy_factor(0.01 / 1000)
MEANS = (0.0, 1.0, 30.0)


@pytest.fixture(scope="module")
def operator():
    draw = np.random.default_rng(3)
    weight = draw.standard_normal((24, 512)).astype(np.float32)
    return Operator(name="fc", kind="linear", weight=weight)


def rows(mean):
    """float32 inputs about a mean."""
    x = np.random.default_rng(4).standard_normal((16, 512)) + mean
    return x.astype(np.float32)


def in_turn(x, weight):
    """float32 (rows, out): every sum from the first product to the last."""
    terms = x[:, None, :] * weight[None]
    return np.add.accumulate(terms, axis=-1, dtype=np.float32)[..., -1]


def beyond(operator, x, y):
    """Root of residual over explained, in units of the limit."""
    oracle = OperatorOracle(operator, SCHEME)
    found = oracle(x, accumulate="fp32", output="fp32")
    residual, explained = oracle.against(found, y)
    return math.sqrt(residual / explained) / FACTOR


def parts(quantized):
    """Scaled codes and offsets, an element each."""
    offsets = np.repeat(quantized.offsets, 32, axis=1)
    codes = quantized.codes.astype(np.float32)
    return np.repeat(quantized.scales, 32, axis=1) * codes, offsets


@pytest.mark.parametrize("mean", MEANS)
@pytest.mark.parametrize("way", ["decoded", "two sums"])
def test_both_ways_are_faithful(operator, mean, way):
    """Inputs with a mean make two large sums of which little is left."""
    x = rows(mean)
    entry = quantize_activation(operator, x, SCHEME).dequantize()
    quantized = quantize_weight(operator, SCHEME)
    first, second = parts(quantized)
    y = in_turn(entry, quantized.dequantize())
    if way == "two sums":
        y = in_turn(entry, first) - in_turn(entry, second)

    assert beyond(operator, x, y) < 1


def test_one_sum_alone_would_not_explain_the_two(operator):
    """So the noise of the difference is needed: by the noise of a plain weight."""
    x = rows(30.0)
    entry = quantize_activation(operator, x, SCHEME).dequantize()
    quantized = quantize_weight(operator, SCHEME)
    first, second = parts(quantized)
    y = in_turn(entry, first) - in_turn(entry, second)
    oracle = OperatorOracle(operator, SCHEME)
    oracle._offsets = None
    found = oracle(x, accumulate="fp32", output="fp32")
    residual, explained = oracle.against(found, y)

    assert math.sqrt(residual / explained) > FACTOR


def damaged(quantized, name):
    """The decoded weight with one thing wrong."""
    if name == "one minimum off by one":
        minimums = quantized.minimums.copy()
        minimums[3, 5] ^= 1
        return dataclasses.replace(quantized, minimums=minimums).dequantize()
    if name == "scales of the group before":
        scales = np.roll(quantized.scales, 1, axis=1)
        return dataclasses.replace(quantized, scales=scales).dequantize()
    if name == "nibbles swapped":
        pairs = quantized.codes.reshape(24, -1, 2, 32)[:, :, ::-1]
        codes = pairs.reshape(quantized.codes.shape)
        return dataclasses.replace(quantized, codes=codes).dequantize()
    return dataclasses.replace(quantized, dmin=-quantized.dmin).dequantize()


@pytest.mark.parametrize("mean", MEANS)
@pytest.mark.parametrize(
    "name",
    [
        "one minimum off by one",
        "scales of the group before",
        "nibbles swapped",
        "minimums added",
    ],
)
def test_what_is_wrong_is_far_beyond(operator, mean, name):
    """One of 384 minimums, one step of 63: tenfold and more, whatever the mean."""
    x = rows(mean)
    entry = quantize_activation(operator, x, SCHEME).dequantize()
    wrong = damaged(quantize_weight(operator, SCHEME), name)

    assert beyond(operator, x, in_turn(entry, wrong)) > 10
