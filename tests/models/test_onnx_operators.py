"""Layers with weights are found in a graph, with everything that belongs to them."""

from __future__ import annotations

import numpy as np
import pytest
from onnx import helper

from harness.models.onnx_normalize import normalize
from harness.models.onnx_operators import (
    find_operators,
    initializers_of,
    replace_weights,
    sanitize,
)

from .graphs import model, perceptron, random, run_ort


def test_a_product_and_its_bias_are_one_operator():
    """Name, tensors and layout of MatMul with Add, and of Gemm."""
    plain = normalize(perceptron())
    first, second = find_operators(plain)

    assert (first.name, first.input, first.weight) == ("fc1_MatMul", "x", "w")
    assert (first.bias, first.output, first.transposed) == ("b", "a", True)
    assert (second.name, second.bias, second.output) == ("fc2", "c", "y")
    assert not second.transposed
    assert plain.graph.node[second.node].op_type == "Gemm"


def test_the_operator_computes_what_the_node_does():
    """`x @ weight.T + bias` of the operators gives the graph's output."""
    plain = normalize(perceptron())
    tensors = initializers_of(plain)
    first, second = (entry.operator(tensors) for entry in find_operators(plain))
    x = random(5, 4)

    hidden = np.maximum(x @ first.weight.T + first.bias, 0)
    np.testing.assert_allclose(
        hidden @ second.weight.T + second.bias,
        run_ort(plain, x=x)["y"],
        rtol=1e-5,
    )
    assert first.weight.flags.c_contiguous
    assert first.reduction == 4


def test_a_convolution_carries_its_attributes():
    """Stride, padding by axis, dilation and groups."""
    node = helper.make_node(
        "Conv",
        ["x", "w", "b"],
        ["y"],
        name="conv",
        strides=[2, 1],
        pads=[1, 2, 1, 2],
        dilations=[1, 3],
        group=2,
    )
    proto = model(
        [node],
        {"x": [1, 4, 9, 9]},
        {"y": [None] * 4},
        {"w": random(6, 2, 3, 3), "b": random(6)},
    )
    plain = normalize(proto)
    operator = find_operators(plain)[0].operator(initializers_of(plain))

    assert operator.kind == "conv"
    assert operator.stride == (2, 1)
    assert operator.padding == ((1, 1), (2, 2))
    assert operator.dilation == (1, 3)
    assert operator.groups == 2
    assert operator.reduction == 18


@pytest.mark.parametrize("shape", [(1, 1, 3), (1,), (2, 3)])
def test_what_is_no_plain_vector_is_no_bias(shape):
    """A constant that could change the result's shape stays an Add of its own."""
    proto = model(
        [
            helper.make_node("MatMul", ["x", "w"], ["m"], name="fc"),
            helper.make_node("Add", ["m", "b"], ["y"]),
        ],
        {"x": [2, 4]},
        {"y": None},
        {"w": random(4, 3), "b": random(*shape)},
    )

    (entry,) = find_operators(normalize(proto))
    assert entry.bias is None
    assert entry.output == "m"


def test_a_product_of_two_activations_is_no_operator():
    """Attention's products have no weight to quantize."""
    proto = model(
        [helper.make_node("MatMul", ["x", "z"], ["y"])],
        {"x": [None, 4], "z": [4, None]},
        {"y": [None, None]},
    )

    assert find_operators(normalize(proto)) == []


@pytest.mark.parametrize("dtype", [np.float32, np.float16])
def test_weights_are_replaced_one_by_one(dtype):
    """Of two nodes that share a weight, only the named one gets another."""
    kind = "FLOAT" if dtype is np.float32 else "FLOAT16"
    proto = model(
        [
            helper.make_node("MatMul", ["x", "w"], ["h"], name="one"),
            helper.make_node("MatMul", ["h", "w"], ["y"], name="two"),
        ],
        {"x": (kind, [None, 3])},
        {"y": (kind, [None, 3])},
        {"w": random(3, 3, dtype=dtype)},
    )
    changed = replace_weights(normalize(proto), {"two": 2 * np.eye(3, dtype="float32")})

    x = random(2, 3, dtype=dtype)
    wanted = 2 * (x.astype(np.float64) @ random(3, 3, dtype=dtype).astype(np.float64))
    eps = float(np.finfo(dtype).eps)
    np.testing.assert_allclose(
        run_ort(changed, x=x)["y"], wanted, rtol=8 * eps, atol=16 * eps
    )


@pytest.mark.parametrize(
    ("name", "wanted"),
    [
        ("/encoder/layer.0/MatMul", "encoder_layer_0_MatMul"),
        ("fc", "fc"),
        ("half", "half_node"),
        ("///", ""),
    ],
)
def test_names_are_one_component_of_a_path(name, wanted):
    """No dots and no slashes, and nothing that a module already has."""
    assert sanitize(name) == wanted
