"""The model that a scheme makes of a reference graph."""

from __future__ import annotations

import dataclasses

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

from harness.models.onnx_normalize import normalize
from harness.models.onnx_operators import find_operators, initializers_of
from harness.schemes.catalogue import SCHEMES, scheme_from_table
from harness.schemes.onnx_qdq import build, expressible
from harness.schemes.types import Scheme, TensorScheme


@pytest.fixture
def graph(rng):
    """Conv -> Relu -> Reshape -> MatMul + bias -> Gemm."""
    weights = {
        "conv_w": (4, 32, 3, 3),
        "conv_b": (4,),
        "fc_w": (64, 24),
        "fc_b": (24,),
        "head_w": (5, 24),
        "head_b": (5,),
    }
    tensors = [
        numpy_helper.from_array(rng.standard_normal(shape).astype(np.float32), name)
        for name, shape in weights.items()
    ]
    tensors.append(numpy_helper.from_array(np.array([0, -1], np.int64), "flat"))
    nodes = [
        helper.make_node(
            "Conv", ["x", "conv_w", "conv_b"], ["a"], "conv", pads=[1] * 4
        ),
        helper.make_node("Relu", ["a"], ["b"], "relu"),
        helper.make_node("Reshape", ["b", "flat"], ["c"], "reshape"),
        helper.make_node("MatMul", ["c", "fc_w"], ["d"], "fc"),
        helper.make_node("Add", ["d", "fc_b"], ["e"], "add"),
        helper.make_node("Gemm", ["e", "head_w", "head_b"], ["y"], "head", transB=1),
    ]
    made = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", 1, ["n", 32, 4, 4])],
        [helper.make_tensor_value_info("y", 1, ["n", 5])],
        tensors,
    )
    model = helper.make_model(made, opset_imports=[helper.make_opsetid("", 21)])
    return normalize(model)


def calibrated(scheme):
    """Calibrated for the operators of the graph."""
    amax = dict.fromkeys(("conv", "fc", "head"), 4.0)
    return dataclasses.replace(scheme, calibration=amax)


@pytest.mark.parametrize("name", sorted(SCHEMES))
def test_every_scheme_builds_a_valid_model(name, graph):
    """It is valid, every operator is observed, and none kept its float weight."""
    built = build(graph, calibrated(SCHEMES[name]))

    onnx.checker.check_model(built.proto)
    assert set(built.observed) == {"conv", "fc", "head"}
    assert built.observed["fc"] == ("c", "e")
    left = {t.name for t in built.proto.graph.initializer}
    assert not left & {"conv_w", "fc_w", "head_w"}
    assert {"conv_b", "fc_b", "head_b"} <= left


def test_a_kept_operator_is_not_touched(graph):
    """Its node and weight are those of the reference."""
    before = initializers_of(graph)["head_w"]
    scheme = dataclasses.replace(SCHEMES["mxfp4"], keep=("head",))

    built = build(graph, scheme)

    node = next(n for n in built.proto.graph.node if n.name == "head")
    assert list(node.input) == ["e", "head_w", "head_b"]
    assert np.array_equal(initializers_of(built.proto)["head_w"], before)
    assert set(built.weights) == {"conv", "fc"}


def test_int4_uses_packed_matmuls_with_declared_arithmetic(graph):
    """Linear layers become MatMulNBits in float32: never a default nobody chose."""
    built = build(graph, SCHEMES["int4"])

    packed = [n for n in built.proto.graph.node if n.op_type == "MatMulNBits"]
    assert built.weights["fc"] == ""
    (node,) = packed
    values = {a.name: helper.get_attribute_value(a) for a in node.attribute}
    assert values["accuracy_level"] == 1
    assert (values["K"], values["N"], values["block_size"]) == (64, 24, 32)


def test_every_shipped_scheme_is_expressible(graph):
    """Without calibration too: it comes later."""
    initializers = initializers_of(graph)
    operators = [entry.operator(initializers) for entry in find_operators(graph)]

    assert all(not expressible(operators, scheme) for scheme in SCHEMES.values())


def test_what_is_not_expressible_is_named_by_operator(graph):
    """A suite's own scheme in a format without nodes says so for each operator."""
    initializers = initializers_of(graph)
    operators = [entry.operator(initializers) for entry in find_operators(graph)]
    scheme = Scheme(
        name="own",
        weights=TensorScheme(format="nf4", granularity="channel"),
        keep=("fc",),
    )

    found = expressible(operators, scheme)

    assert sorted(found) == ["conv", "head"]
    assert "nf4 weights" in found["conv"]


@pytest.mark.parametrize(("fmt", "kind"), [("int8", np.int8), ("int16", np.int16)])
def test_results_are_rounded_after_the_bias(graph, fmt, kind):
    """Every reader of a result reads the rounded one, under the result's own name."""
    table = {"base": "int8_static", "outputs": {"format": fmt}, "keep": ["conv"]}
    scheme = dataclasses.replace(
        calibrated(scheme_from_table("rounded", table)),
        output_calibration={"fc": 7.0, "head": 9.0},
    )

    built = build(graph, scheme)

    onnx.checker.check_model(built.proto, full_check=True)
    producers = {name: n for n in built.proto.graph.node for name in n.output}
    tensors = initializers_of(built.proto)
    for name, source in (("fc", "Add"), ("head", "Gemm")):
        decode = producers[built.observed[name][1]]
        encode = producers[decode.input[0]]
        assert ("DequantizeLinear", "QuantizeLinear") == (
            decode.op_type,
            encode.op_type,
        )
        assert source == producers[encode.input[0]].op_type
        assert kind == tensors[encode.input[2]].dtype
    assert "Conv" == producers[built.observed["conv"][1]].op_type
