"""The plain form of ONNX graphs computes what the graph computed."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
import torch
from onnx import helper, numpy_helper

from harness.errors import ModelError
from harness.models.onnx_normalize import IR_VERSION, OPSET, normalize
from harness.models.onnx_operators import RESERVED, find_operators

from .graphs import model, perceptron, random, run_ort


def constant(name, **value):
    return helper.make_node("Constant", [], [name], **value)


def same(before, after, **feeds):
    wanted, found = run_ort(before, **feeds), run_ort(after, **feeds)
    assert list(found) == list(wanted)
    for name, array in wanted.items():
        np.testing.assert_allclose(found[name], array, rtol=1e-5, atol=1e-6)


def test_the_argument_is_left_as_it_is():
    """A caller's model is not changed."""
    proto = perceptron()
    before = proto.SerializeToString()
    normalize(proto)

    assert proto.SerializeToString() == before


def test_an_old_opset_is_raised():
    """Opset and IR version are those that Q/DQ of the low formats needs."""
    plain = normalize(perceptron(opset=12))

    assert plain.opset_import[0].version == OPSET
    assert plain.ir_version == IR_VERSION
    same(perceptron(opset=12), plain, x=random(3, 4))


def test_constant_nodes_become_initializers():
    """Whatever attribute holds the value."""
    tensor = numpy_helper.from_array(random(4, 3))
    proto = model(
        [
            constant("w", value=tensor),
            constant("shape", value_ints=[-1, 4]),
            constant("two", value_float=2.0),
            helper.make_node("Reshape", ["x", "shape"], ["a"]),
            helper.make_node("Mul", ["a", "two"], ["b"]),
            helper.make_node("MatMul", ["b", "w"], ["y"]),
        ],
        {"x": [2, 2, None]},
        {"y": [None, 3]},
    )
    plain = normalize(proto)

    assert [n.op_type for n in plain.graph.node] == ["Reshape", "Mul", "MatMul"]
    assert [entry.weight for entry in find_operators(plain)] == ["w"]
    same(proto, plain, x=random(2, 2, 4))


def test_a_weight_that_is_moved_around_is_still_a_weight():
    """Transpose and Cast of a constant are worked out, whatever its size."""
    proto = model(
        [
            helper.make_node("Cast", ["h"], ["f"], to=1),
            helper.make_node("Transpose", ["f"], ["w"], perm=[1, 0]),
            helper.make_node("MatMul", ["x", "w"], ["y"], name="fc"),
        ],
        {"x": [None, 4]},
        {"y": [None, 3]},
        {"h": random(3, 4, dtype=np.float16)},
    )

    assert [entry.name for entry in find_operators(normalize(proto))] == ["fc"]


@pytest.mark.parametrize("rate", [16000, 8000])
def test_a_constant_condition_is_decided(rate):
    """Of an If on a fixed input the chosen branch stays, under the outputs' names."""
    branches = {
        f"{name}_branch": helper.make_graph(
            [helper.make_node(op, ["x"], [f"{name}_out"])],
            name,
            [],
            [helper.make_tensor_value_info(f"{name}_out", 1, [None])],
        )
        for name, op in {"then": "Abs", "else": "Neg"}.items()
    }
    proto = model(
        [
            helper.make_node("Equal", ["rate", "wanted"], ["same"]),
            helper.make_node("If", ["same"], ["y"], **branches),
        ],
        {"x": [None], "rate": ("INT64", [])},
        {"y": [None]},
        {"wanted": np.array(16000)},
    )
    plain = normalize(proto, fixed={"rate": np.array(rate)})

    assert [n.op_type for n in plain.graph.node] == ["Abs" if rate == 16000 else "Neg"]
    assert [value.name for value in plain.graph.input] == ["x"]
    x = random(3)
    wanted = run_ort(proto, x=x, rate=np.array(rate))["y"]
    np.testing.assert_array_equal(run_ort(plain, x=x)["y"], wanted)


def test_an_open_condition_stays():
    """Without the fixed input there is nothing to decide."""
    branch = helper.make_graph(
        [helper.make_node("Abs", ["x"], ["out"])],
        "b",
        [],
        [helper.make_tensor_value_info("out", 1, [None])],
    )
    other = helper.make_graph(
        [helper.make_node("Neg", ["x"], ["out2"])],
        "c",
        [],
        [helper.make_tensor_value_info("out2", 1, [None])],
    )
    node = helper.make_node("If", ["c"], ["y"], then_branch=branch, else_branch=other)
    proto = model([node], {"x": [None], "c": ("BOOL", [])}, {"y": [None]})

    assert [n.op_type for n in normalize(proto).graph.node] == ["If"]


def test_a_fixed_input_must_exist():
    """A misspelt name is an error that lists the right ones."""
    with pytest.raises(ModelError, match=r"'rate' is none of the graph's: \['x'\]"):
        normalize(perceptron(), fixed={"rate": np.array(1)})


@pytest.mark.parametrize(
    "attributes",
    [
        {"pads": [0, 1, 2, 0]},
        {"auto_pad": "SAME_UPPER"},
        {"auto_pad": "SAME_LOWER"},
        {"auto_pad": "VALID"},
    ],
    ids=str,
)
def test_convolutions_pad_both_ends_alike(attributes):
    """Unequal padding is a node of its own, so the convolution can be quantized."""
    node = helper.make_node("Conv", ["x", "w"], ["y"], name="conv", **attributes)
    proto = model(
        [node], {"x": [1, 2, 6, 7]}, {"y": [None] * 4}, {"w": random(3, 2, 4, 2)}
    )
    plain = normalize(proto)

    assert [entry.name for entry in find_operators(plain)] == ["conv"]
    same(proto, plain, x=random(1, 2, 6, 7))


def test_factors_of_a_gemm_are_worked_in():
    """`alpha` and `beta` do not keep a layer from being quantized."""
    node = helper.make_node(
        "Gemm", ["x", "w", "b"], ["y"], name="fc", alpha=0.5, beta=2.0
    )
    proto = model(
        [node],
        {"x": [None, 4]},
        {"y": [None, 3]},
        {"w": random(4, 3), "b": random(3)},
    )
    plain = normalize(proto)

    assert [entry.name for entry in find_operators(plain)] == ["fc"]
    same(proto, plain, x=random(2, 4))


def test_names_are_unique_and_allowed():
    """No two nodes share a name, none is empty, none is an attribute of a module."""
    proto = model(
        [
            helper.make_node("MatMul", ["x", "w"], ["a"], name="forward"),
            helper.make_node("MatMul", ["a", "w"], ["b"], name="/fc/a"),
            helper.make_node("MatMul", ["b", "w"], ["c"], name="fc.a"),
            helper.make_node("MatMul", ["c", "w"], ["y"]),
        ],
        {"x": [None, 4]},
        {"y": [None, 4]},
        {"w": random(4, 4)},
    )

    names = [node.name for node in normalize(proto).graph.node]
    assert names == ["forward_node", "fc_a", "fc_a_2", "MatMul_y"]


def test_reserved_names_are_those_of_torch():
    """The list is complete for the torch that is installed."""
    public = {name for name in dir(torch.nn.Module()) if not name.startswith("_")}

    assert public <= RESERVED


def test_functions_are_inlined():
    """A model's own functions become plain nodes."""
    function = helper.make_function(
        "own",
        "Twice",
        ["a"],
        ["b"],
        [helper.make_node("Add", ["a", "a"], ["b"])],
        [helper.make_opsetid("", 21)],
    )
    proto = model(
        [helper.make_node("Twice", ["x"], ["y"], domain="own")],
        {"x": [None]},
        {"y": [None]},
        functions=[function],
    )
    proto.opset_import.add(domain="own", version=1)

    assert [node.op_type for node in normalize(proto).graph.node] == ["Add"]


def test_what_no_output_needs_is_dropped():
    """Dead nodes and their weights go; the rest is as it was."""
    proto = perceptron()
    proto.graph.node.append(helper.make_node("MatMul", ["x", "w"], ["dead"]))
    extra = numpy_helper.from_array(random(9), "unused")
    proto.graph.initializer.append(extra)
    plain = normalize(proto)

    assert {t.name for t in plain.graph.initializer} == {"w", "b", "v", "c"}
    assert len(plain.graph.node) == 4
    onnx.checker.check_model(plain)
