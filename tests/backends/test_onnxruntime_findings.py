"""Where ONNX Runtime's optimizer does not compute what the graph says, we say so.

Each test first asks ONNX Runtime itself, on a graph of a few nodes, whether this
version deviates; one that does not is skipped with that as its reason. Measured with
1.32.0: all of them deviate.
"""

from __future__ import annotations

import dataclasses

import numpy as np
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from harness.backends.onnxruntime_backend import OnnxRuntimeBackend
from harness.schemes.catalogue import SCHEMES
from tests.backends.observed import beyond
from tests.backends.small_onnx import saved

LEVELS = onnxruntime.GraphOptimizationLevel


def run(nodes, tensors, x, outputs, *, optimize):
    """A bare graph in ONNX Runtime, without anything of ours."""
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", 1, x.shape)],
        [helper.make_tensor_value_info(name, 1, None) for name in outputs],
        tensors,
    )
    opset = [helper.make_opsetid("", 21)]
    model = helper.make_model(graph, opset_imports=opset, ir_version=10)
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    if not optimize:
        options.graph_optimization_level = LEVELS.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    return session.run(None, {"x": x})


def tensor(array, name):
    """An initializer."""
    return numpy_helper.from_array(np.asarray(array), name)


def ratios(model, scheme, x, **settings):
    """Unexplained drift of every operator, in units of its limit."""
    session = OnnxRuntimeBackend(**settings).load(model, scheme)
    return beyond(model, scheme, session, x)


def test_int8_weights_quantize_the_input_too(tmp_path):
    """DequantizeLinear(int8) + MatMul becomes MatMulNBits with INT8 activations."""
    rng = np.random.default_rng(0)
    codes = rng.integers(-127, 128, (64, 64)).astype(np.int8)
    x = rng.standard_normal((16, 64)).astype(np.float32)
    nodes = [
        helper.make_node("DequantizeLinear", ["w", "s"], ["d"], axis=1),
        helper.make_node("MatMul", ["x", "d"], ["y"]),
    ]
    stored = [tensor(codes, "w"), tensor(np.full(64, 0.01, np.float32), "s")]
    on, off = (run(nodes, stored, x, ["y"], optimize=o)[0] for o in (True, False))
    if np.linalg.norm(on - off) < 1e-5 * np.linalg.norm(off):
        pytest.skip(f"onnxruntime {onnxruntime.__version__} leaves the input alone")
    weight = rng.standard_normal((64, 64)).astype(np.float32)
    model = saved(
        tmp_path,
        [helper.make_node("MatMul", ["x", "w"], ["y"], "fc")],
        [tensor(weight, "w")],
        ["n", 64],
        ["n", 64],
    )
    scheme = SCHEMES["int8_weight_only"]

    faithful = {"config": {"session.qdq_matmulnbits_accuracy_level": "1"}}

    assert ratios(model, scheme, x)["fc"] > 10
    assert ratios(model, scheme, x, **faithful)["fc"] < 1
    assert ratios(model, scheme, x, optimization="off")["fc"] < 1


def conv_model(tmp_path, rng, bias):
    """Two convolutions with a Relu between them."""
    shape = (4, 4, 3)
    return saved(
        tmp_path,
        [
            helper.make_node("Conv", ["x", "w1", "b"], ["a"], "first", pads=[1, 1]),
            helper.make_node("Relu", ["a"], ["r"], "relu"),
            helper.make_node("Conv", ["r", "w2"], ["y"], "second", pads=[1, 1]),
        ],
        [
            tensor(rng.standard_normal(shape).astype(np.float32), "w1"),
            tensor(rng.standard_normal(shape).astype(np.float32), "w2"),
            tensor(np.asarray(bias, np.float32), "b"),
        ],
        ["n", 4, 16],
        ["n", 4, 16],
    )


def static_conv(bias):
    """Q, DQ, Conv, Q, DQ of a convolution with one weight per channel."""
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "sx", "zero"], ["q"]),
        helper.make_node("DequantizeLinear", ["q", "sx", "zero"], ["d"]),
        helper.make_node("DequantizeLinear", ["w", "sw"], ["wd"], axis=0),
        helper.make_node("Conv", ["d", "wd", "b"], ["y"]),
        helper.make_node("QuantizeLinear", ["y", "sx", "zero"], ["q2"]),
        helper.make_node("DequantizeLinear", ["q2", "sx", "zero"], ["z"]),
    ]
    tensors = [
        tensor(np.float32(0.1), "sx"),
        tensor(np.int8(0), "zero"),
        tensor(np.ones((1, 1, 1), np.int8), "w"),
        tensor(np.full(1, 0.05, np.float32), "sw"),
        tensor(np.full(1, bias, np.float32), "b"),
    ]
    return nodes, tensors


def test_a_float_bias_becomes_int32(tmp_path):
    """Between Q/DQ a Conv's bias is rounded to a multiple of both scales' product."""
    nodes, tensors = static_conv(0.3003)
    zero = np.zeros((1, 1, 2), np.float32)
    on = run(nodes, tensors, zero, ["y", "z"], optimize=True)[0]
    if on.ravel()[0] == np.float32(0.3003):
        pytest.skip(f"onnxruntime {onnxruntime.__version__} keeps the bias")
    rng = np.random.default_rng(1)
    model = conv_model(tmp_path, rng, [0.3003, 0.1001, 0.7007, 0.5])
    x = rng.standard_normal((8, 4, 16)).astype(np.float32)
    amax = {"first": float(np.abs(x).max()), "second": 20.0}
    scheme = dataclasses.replace(SCHEMES["int8_static"], calibration=amax)

    assert ratios(model, scheme, x)["first"] > 10
    assert ratios(model, scheme, x, optimization="off")["first"] < 1


def test_a_relu_before_fp8_is_dropped(tmp_path):
    """With zero point 0 it is taken for UINT8's: negative numbers go through.

    No quantized operator is wrong, and observing the Relu's output keeps it alive: the
    outputs of a run that observes differ from those of one that does not.
    """
    nodes = [
        helper.make_node("Relu", ["x"], ["r"]),
        helper.make_node("QuantizeLinear", ["r", "s", "zero"], ["q"]),
        helper.make_node("DequantizeLinear", ["q", "s", "zero"], ["y"]),
    ]
    zero = helper.make_tensor("zero", TensorProto.FLOAT8E4M3FN, [], b"\0", raw=True)
    tensors = [zero, tensor(np.float32(0.01), "s")]
    negative = np.array([-1.0, 1.0], np.float32)
    if run(nodes, tensors, negative, ["y"], optimize=True)[0].min() >= 0:
        pytest.skip(f"onnxruntime {onnxruntime.__version__} keeps the Relu")
    rng = np.random.default_rng(2)
    model = conv_model(tmp_path, rng, np.zeros(4))
    x = rng.standard_normal((8, 4, 16)).astype(np.float32)
    amax = {"first": float(np.abs(x).max()), "second": 20.0}
    scheme = dataclasses.replace(SCHEMES["fp8_e4m3_static"], calibration=amax)
    session = OnnxRuntimeBackend().load(model, scheme)

    plain = session.run({"x": x})["y"]
    observed = session.run({"x": x}, capture=["first", "second"])["y"]

    assert np.linalg.norm(plain - observed) > 0.1 * np.linalg.norm(observed)


def test_one_of_two_roundings_in_a_row_is_dropped():
    """Q/DQ with a scale, then with another: a result, and the next input."""
    x = np.array([2.6, 2.2], np.float32)
    names = [["a", "zero"], ["b", "zero"]]
    nodes = [
        helper.make_node("QuantizeLinear", ["x", *names[0]], ["q"]),
        helper.make_node("DequantizeLinear", ["q", *names[0]], ["d"]),
        helper.make_node("QuantizeLinear", ["d", *names[1]], ["r"]),
        helper.make_node("DequantizeLinear", ["r", *names[1]], ["y"]),
    ]
    tensors = [
        tensor(np.float32(0.3), "a"),
        tensor(np.float32(0.25), "b"),
        tensor(np.int8(0), "zero"),
    ]
    # 2.6 becomes 2.7 and that 2.75; 2.2 becomes 2.1 and that 2.
    want = np.array([2.75, 2.0], np.float32)
    plain = run(nodes, tensors, x, ["y"], optimize=False)[0]
    np.testing.assert_array_equal(want, plain)
    found = run(nodes, tensors, x, ["y"], optimize=True)[0]
    if np.array_equal(want, found):
        pytest.skip(f"onnxruntime {onnxruntime.__version__} keeps both")

    np.testing.assert_array_equal(np.array([2.5, 2.25], np.float32), found)


def test_a_linear_layer_with_rounded_results_gets_an_integer_bias():
    """`QGemm` takes the bias as INT32 codes of scale s_x * s_w."""
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "s_x", "zero"], ["c"]),
        helper.make_node("DequantizeLinear", ["c", "s_x", "zero"], ["d"]),
        helper.make_node("DequantizeLinear", ["w", "s_w", "zero"], ["v"]),
        helper.make_node("MatMul", ["d", "v"], ["m"]),
        helper.make_node("Add", ["m", "bias"], ["h"]),
        helper.make_node("QuantizeLinear", ["h", "s_y", "zero"], ["e"]),
        helper.make_node("DequantizeLinear", ["e", "s_y", "zero"], ["y"]),
    ]
    tensors = [
        tensor(np.float32(0.1), "s_x"),
        tensor(np.float32(0.05), "s_w"),
        tensor(np.float32(0.001), "s_y"),
        tensor(np.int8(0), "zero"),
        tensor(np.full((8, 2), 100, np.int8), "w"),
        tensor(np.array([0.1234567, 0.0021], np.float32), "bias"),
    ]
    x = np.zeros((1, 8), np.float32)
    want = np.array([[0.123, 0.002]], np.float32)
    plain = run(nodes, tensors, x, ["y"], optimize=False)[0]
    np.testing.assert_allclose(plain, want, rtol=1e-6)
    found = run(nodes, tensors, x, ["y"], optimize=True)[0]
    if np.allclose(want, found, rtol=1e-6):
        pytest.skip(f"onnxruntime {onnxruntime.__version__} keeps the bias")

    # Multiples of 0.005.
    np.testing.assert_allclose(found, [[0.125, 0.0]], rtol=1e-6)


@pytest.mark.xfail(strict=True, reason="ONNX Runtime 1.32 multiplies INT8 inputs")
def test_weights_of_four_bits_leave_the_input_alone():
    """DequantizeLinear of INT4 blocks + MatMul too: as NNCF writes them."""
    rng = np.random.default_rng(0)
    codes = rng.integers(-7, 8, (64, 64))
    x = rng.standard_normal((16, 64)).astype(np.float32)
    nodes = [
        helper.make_node("DequantizeLinear", ["w", "s"], ["d"], axis=0, block_size=32),
        helper.make_node("MatMul", ["x", "d"], ["y"]),
    ]
    stored = helper.make_tensor("w", TensorProto.INT4, [64, 64], codes.ravel())
    tensors = [stored, tensor(np.full((2, 64), 0.01, np.float32), "s")]
    off = run(nodes, tensors, x, ["y"], optimize=False)[0]

    on = run(nodes, tensors, x, ["y"], optimize=True)[0]

    assert np.linalg.norm(on - off) < 1e-5 * np.linalg.norm(off)


@pytest.mark.xfail(strict=True, reason="ONNX Runtime 1.32: output_dtype INT8 of UINT8")
def test_a_valid_graph_loads_in_the_default_configuration():
    """Signed Q/DQ, Slice, Pow, unsigned Q/DQ: as NNCF writes VAD."""
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "s", "z"], ["q"]),
        helper.make_node("DequantizeLinear", ["q", "s", "z"], ["d"]),
        helper.make_node("Slice", ["d", "begin", "end"], ["part"]),
        helper.make_node("Pow", ["part", "two"], ["p"]),
        helper.make_node("QuantizeLinear", ["p", "s", "zu"], ["r"]),
        helper.make_node("DequantizeLinear", ["r", "s", "zu"], ["y"]),
    ]
    tensors = [
        tensor(np.float32(0.1), "s"),
        tensor(np.int8(0), "z"),
        tensor(np.uint8(0), "zu"),
        tensor(np.array([0]), "begin"),
        tensor(np.array([2]), "end"),
        tensor(np.float32(2), "two"),
    ]
    x = np.array([0.5, 1.0, 3.0], np.float32)
    plain = run(nodes, tensors, x, ["y"], optimize=False)[0]
    np.testing.assert_allclose(plain, [0.2, 1.0], rtol=1e-6)

    run(nodes, tensors, x, ["y"], optimize=True)
