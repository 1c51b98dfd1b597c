"""Weights inside an ONNX graph: really small, and decoded exactly."""

from __future__ import annotations

import dataclasses

import numpy as np
import onnxruntime
import pytest
from onnx import helper

from harness.errors import UnsupportedError
from harness.models.types import Operator
from harness.schemes.apply import quantize_weight
from harness.schemes.catalogue import SCHEMES
from harness.schemes.onnx_nodes import Nodes
from harness.schemes.onnx_weights import int4_matmul, store_weight
from harness.schemes.types import Scheme, TensorScheme

STORED = sorted({s.weights for s in SCHEMES.values()}, key=str)


def evaluate(nodes, name, feeds=None):
    """A tensor's value; optimizations off, so that every node runs as it is written."""
    inputs = [
        helper.make_tensor_value_info(key, 1, value.shape)
        for key, value in (feeds or {}).items()
    ]
    graph = helper.make_graph(
        nodes.nodes,
        "g",
        inputs,
        [helper.make_tensor_value_info(name, 1, None)],
        nodes.initializers,
    )
    opsets = [helper.make_opsetid("", 21), helper.make_opsetid("com.microsoft", 1)]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=10)
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.graph_optimization_level = (
        onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    )
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    return session.run(None, feeds or {})[0]


def own(tensor):
    """A scheme of one weight format."""
    return Scheme(name="own", weights=tensor)


@pytest.mark.parametrize("tensor", STORED, ids=lambda t: f"{t.format}-{t.block}")
@pytest.mark.parametrize("kind", ["linear", "conv"])
def test_the_engine_decodes_numerics_weight(tensor, kind, request):
    """Every stored format, whole blocks and a tail, linear and convolution."""
    operator = request.getfixturevalue(kind)
    nodes = Nodes("w")

    name = store_weight(nodes, operator, own(tensor), transposed=False)

    expected = quantize_weight(operator, own(tensor)).dequantize()
    np.testing.assert_array_equal(evaluate(nodes, name), expected)


@pytest.mark.parametrize("tensor", STORED, ids=lambda t: f"{t.format}-{t.block}")
def test_a_matmul_gets_its_weight_the_other_way_round(tensor, linear):
    """A MatMul wants (in, out)."""
    nodes = Nodes("w")

    name = store_weight(nodes, linear, own(tensor), transposed=True)

    expected = quantize_weight(linear, own(tensor)).dequantize()
    np.testing.assert_array_equal(evaluate(nodes, name), expected.T)


@pytest.mark.parametrize(
    ("name", "bits"),
    [
        ("fp8_weight_only", 8),
        ("int8_weight_only", 8),
        ("mxfp8_weight_only", 8 + 8 / 32),
        ("mxfp4_weight_only", 4 + 8 / 32),
        ("nvfp4_weight_only", 4 + 8 / 16),
        ("int4", 4 + 32 / 32),
        ("int4_g128", 4 + 32 / 128),
    ],
)
def test_a_weight_takes_as_many_bits_as_its_format(name, bits, rng):
    """Codes and scales are stored as the format has them, not as float32."""
    operator = Operator(
        name="fc",
        kind="linear",
        weight=rng.standard_normal((256, 256)).astype(np.float32),
    )
    nodes = Nodes("w")

    store_weight(nodes, operator, SCHEMES[name], transposed=False)

    own_bytes = sum(
        len(t.raw_data)
        for t in nodes.initializers
        if "/weight_codes" in t.name or "/weight_scale" in t.name
    )
    per_channel = 256 * 4 if SCHEMES[name].weights.granularity == "channel" else 0
    assert own_bytes == 256 * 256 * bits / 8 + per_channel


def test_one_scale_for_the_whole_tensor(linear):
    """A granularity that no shipped scheme uses."""
    tensor = TensorScheme(format="fp8_e5m2", granularity="tensor")
    nodes = Nodes("w")

    name = store_weight(nodes, linear, own(tensor), transposed=True)

    expected = quantize_weight(linear, own(tensor)).dequantize()
    np.testing.assert_array_equal(evaluate(nodes, name), expected.T)


@pytest.mark.parametrize("block", [16, 32, 128])
def test_matmulnbits_multiplies_by_the_exact_weight(block, linear, rng):
    """Offset codes, packed low nibble first, a tail filled up with zeros."""
    scheme = own(TensorScheme(format="int4", granularity="block", block=block))
    nodes = Nodes("w")
    int4_matmul(nodes, linear, scheme, "x", "y")

    # The identity reads the weight back, one row an input.
    found = evaluate(nodes, "y", {"x": np.eye(70, dtype=np.float32)})

    expected = quantize_weight(linear, scheme).dequantize()
    np.testing.assert_array_equal(found, expected.T)


@pytest.mark.parametrize(
    ("tensor", "message"),
    [
        (TensorScheme(format="nf4", granularity="channel"), "nf4 weights with one"),
        (
            TensorScheme(format="mxfp6_e2m3", granularity="block"),
            "fp6_e2m3 weights in blocks",
        ),
    ],
    ids=["nf4", "mxfp6"],
)
def test_what_has_no_nodes_says_so(tensor, message, linear):
    """A format that cannot be expressed is refused, not approximated."""
    with pytest.raises(UnsupportedError, match=message):
        store_weight(Nodes("w"), linear, own(tensor), transposed=False)


def test_the_comparison_sees_one_wrong_code(linear):
    """The tests above can fail: one flipped bit of one code is seen."""
    scheme = SCHEMES["mxfp4_weight_only"]
    nodes = Nodes("w")
    name = store_weight(nodes, linear, scheme, transposed=False)
    codes = next(t for t in nodes.initializers if "/weight_codes" in t.name)
    data = bytearray(codes.raw_data)
    data[0] ^= 1
    codes.raw_data = bytes(data)

    expected = quantize_weight(linear, scheme).dequantize()

    assert (evaluate(nodes, name) != expected).sum() == 1


def test_a_kept_format_is_the_scheme_s(linear):
    """Rules reach the stored weight."""
    base = SCHEMES["mxfp4_weight_only"].weights
    scheme = own(dataclasses.replace(base, rule="even"))
    nodes = Nodes("w")

    name = store_weight(nodes, linear, scheme, transposed=False)

    expected = quantize_weight(linear, scheme).dequantize()
    np.testing.assert_array_equal(evaluate(nodes, name), expected)


def test_super_blocks_have_no_onnx_operator():
    """Scales of scales and minimums are refused, not left out."""
    operator = Operator(name="a", kind="linear", weight=np.ones((2, 256), np.float32))
    tensor = TensorScheme(format="uint4", granularity="block", block=32, rule="ggml")

    with pytest.raises(UnsupportedError, match="Q4_K weights in ONNX operators"):
        store_weight(Nodes("w"), operator, own(tensor), transposed=False)
    with pytest.raises(UnsupportedError, match="Q4_K weights in ONNX operators"):
        int4_matmul(Nodes("w"), operator, own(tensor), "x", "y")
