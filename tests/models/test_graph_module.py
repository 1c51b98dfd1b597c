"""An ONNX graph as a torch module."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from onnx import helper

from harness.errors import UnsupportedError
from harness.models.graph_module import GraphModule
from harness.models.onnx_normalize import normalize

from .graphs import model, perceptron, random, run_ort


def run(module, **arrays):
    with torch.inference_mode():
        found = module(**{k: torch.from_numpy(np.array(v)) for k, v in arrays.items()})
    return {name: tensor.numpy() for name, tensor in found.items()}


def test_weighted_nodes_become_torch_layers_under_their_names():
    """MatMul with its Add, and Gemm, are `Linear` layers with bias."""
    module = GraphModule(normalize(perceptron()))

    layers = dict(module.named_children())
    assert list(layers) == ["fc1_MatMul", "fc2"]
    assert all(type(layer) is torch.nn.Linear for layer in layers.values())
    assert all(layer.bias is not None for layer in layers.values())


def test_equals_onnxruntime():
    """Torch and ONNX Runtime agree to float32 rounding."""
    x = random(5, 4)
    found = run(GraphModule(normalize(perceptron())), x=x)["y"]

    np.testing.assert_allclose(found, run_ort(perceptron(), x=x)["y"], rtol=1e-5)


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32, torch.float64])
def test_computes_in_the_dtype_it_is_converted_to(dtype):
    """Inputs, casts to FLOAT and constants follow `to(dtype)`."""
    nodes = [
        helper.make_node("Cast", ["i"], ["f"], to=1),
        helper.make_node("Add", ["f", "x"], ["s"]),
        helper.make_node("MatMul", ["s", "w"], ["y"]),
    ]
    proto = model(
        nodes,
        {"x": [None, 4], "i": ("INT64", [None, 4])},
        {"y": [None, 2]},
        {"w": random(4, 2)},
    )
    module = GraphModule(normalize(proto)).to(dtype)

    found = module(x=torch.ones(1, 4), i=torch.ones(1, 4, dtype=torch.int64))["y"]
    assert found.dtype == dtype
    wanted = 2 * random(4, 2).astype(np.float64).sum(0)
    eps = torch.finfo(dtype).eps
    np.testing.assert_allclose(found[0].double(), wanted, rtol=8 * eps, atol=16 * eps)


def test_a_finite_constant_stays_finite_in_fp16():
    """An attention mask's -3.4e38 becomes -65504, not -inf: no row turns NaN."""
    lowest = np.finfo(np.float32).min
    proto = model(
        [
            helper.make_node("Mul", ["x", "low"], ["m"]),
            helper.make_node("Softmax", ["m"], ["y"]),
        ],
        {"x": [None, 4]},
        {"y": [None, 4]},
        {"low": np.array([lowest, -np.inf, 1.0, np.nan], np.float32)},
    )
    module = GraphModule(normalize(proto)).half()

    values = module.get_buffer("_constant_0").tolist()
    assert values[:3] == [-65504.0, -np.inf, 1.0]
    assert np.isnan(values[3])


def test_a_cast_to_fp16_rounds_in_float32_too():
    """A cast that the graph asks for is kept; float32 goes on with the result."""
    proto = model(
        [
            helper.make_node("Cast", ["x"], ["h"], to=10),
            helper.make_node("Cast", ["h"], ["y"], to=1),
        ],
        {"x": [None]},
        {"y": [None]},
    )
    found = run(GraphModule(normalize(proto)), x=np.array([1 + 2**-12], np.float32))

    assert found["y"].dtype == np.float32
    assert found["y"].item() == 1.0


def test_a_shared_sum_is_not_taken_for_a_bias():
    """A product that is also read elsewhere keeps its own output."""
    proto = model(
        [
            helper.make_node("MatMul", ["x", "w"], ["m"], name="fc"),
            helper.make_node("Add", ["m", "b"], ["a"]),
            helper.make_node("Mul", ["m", "a"], ["y"]),
        ],
        {"x": [None, 4]},
        {"y": [None, 3]},
        {"w": random(4, 3), "b": random(3)},
    )
    module = GraphModule(normalize(proto))

    assert module.fc.bias is None
    x = random(2, 4)
    np.testing.assert_allclose(
        run(module, x=x)["y"], run_ort(proto, x=x)["y"], rtol=1e-5
    )


def test_a_replaced_layer_is_the_one_that_runs():
    """Layers are found by name at each run, in copies as well."""
    module = copy.deepcopy(GraphModule(normalize(perceptron())))
    module.fc2 = torch.nn.Linear(3, 7)

    assert run(module, x=random(2, 4))["y"].shape == (2, 7)


def test_what_torch_does_not_run_is_named():
    """An unknown operator is refused with its kind and its node."""
    node = helper.make_node("LSTM", ["x", "w", "r"], ["y"], name="cell", hidden_size=2)
    proto = model(
        [node],
        {"x": [None, None, 2]},
        {"y": [None, None, None, 2]},
        {"w": random(1, 8, 2), "r": random(1, 8, 2)},
    )

    with pytest.raises(UnsupportedError, match=r"'cell' is a LSTM") as caught:
        GraphModule(normalize(proto))
    assert caught.value.operator == "cell"


def test_an_attribute_torch_does_not_run_names_the_node():
    """The refusal of an attribute comes with the node that has it."""
    node = helper.make_node(
        "MaxPool", ["x"], ["y", "i"], name="pool", kernel_shape=[2, 2]
    )
    proto = model(
        [node],
        {"x": [1, 1, 4, 4]},
        {"y": [1, 1, 3, 3], "i": ("INT64", [1, 1, 3, 3])},
    )

    with pytest.raises(UnsupportedError, match="'pool': MaxPool with indices"):
        run(GraphModule(normalize(proto)), x=random(1, 1, 4, 4))
