"""What is wrong with a Q4_K weight is named by what it computes."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from harness.diagnose import Call, Observation, diagnose
from harness.diagnose.weight_offsets import wrong_offsets
from harness.models.types import Operator
from harness.numerics import quantize
from harness.numerics.layouts.gguf_k import make_q4k
from harness.schemes.apply import quantize_activation, quantize_weight
from harness.schemes.catalogue import scheme_from_table

BLOCKS = {"granularity": "block", "rule": "ggml"}
SCHEME = scheme_from_table(
    "q4_k",
    {
        "weights": {**BLOCKS, "format": "uint4", "block": 32},
        "activations": {**BLOCKS, "format": "int8", "block": 256},
    },
)


@pytest.fixture(scope="module")
def operator():
    weight = np.random.default_rng(3).standard_normal((48, 512)).astype(np.float32)
    return Operator(name="fc", kind="linear", weight=weight + np.float32(0.3))


def wrong(q, name):
    """float32 weight with the fault of that name."""
    if name == "offset added":
        return dataclasses.replace(q, dmin=-q.dmin).dequantize()
    if name == "offset missing":
        return dataclasses.replace(q, minimums=q.minimums * 0).dequantize()
    if name == "offsets shifted along K":
        return dataclasses.replace(q, minimums=np.roll(q.minimums, 1, 1)).dequantize()
    if name == "scales shifted along K":
        return dataclasses.replace(q, scales=np.roll(q.scales, 1, 1)).dequantize()
    if name == "scales and offsets exchanged":
        return make_q4k(q.codes, q.minimums, q.steps, q.d, q.dmin).dequantize()
    order = np.arange(512) ^ 32
    return dataclasses.replace(q, codes=q.codes[:, order]).dequantize()


@pytest.mark.parametrize(
    "name",
    [
        "offset added",
        "offset missing",
        "offsets shifted along K",
        "scales shifted along K",
        "scales and offsets exchanged",
        "codes of a byte swapped",
    ],
)
def test_the_cause_is_named(operator, name):
    """From inputs and outputs alone."""
    x = np.random.default_rng(4).standard_normal((32, 512)).astype(np.float32)
    entry = quantize_activation(operator, x, SCHEME).dequantize()
    weight = wrong(quantize_weight(operator, SCHEME), name)
    y = (entry.astype(np.float64) @ weight.T.astype(np.float64)).astype(np.float32)

    found = diagnose(Observation(operator, SCHEME, (Call(x, y),)))

    assert name == found.cause


def test_other_weights_have_no_offsets():
    """Nothing is tried there."""
    assert not list(wrong_offsets(quantize(np.ones((2, 64)), "int4", block=32)))
