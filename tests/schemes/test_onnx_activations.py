"""Inputs quantized in an ONNX graph are numerics' to the last bit."""

from __future__ import annotations

import dataclasses

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import helper

from harness.errors import UnsupportedError
from harness.numerics import FORMATS
from harness.schemes.apply import quantize_activation
from harness.schemes.catalogue import SCHEMES
from harness.schemes.onnx_activations import quantize_input
from harness.schemes.onnx_nodes import Nodes
from harness.schemes.types import Scheme, TensorScheme

QUANTIZED = sorted(name for name, s in SCHEMES.items() if s.activations)


def run(operator, scheme, x):
    """The decoded input as ONNX Runtime computes it, in its default configuration."""
    nodes = Nodes("t")
    name = quantize_input(nodes, operator, scheme, "x")
    graph = helper.make_graph(
        nodes.nodes,
        "g",
        [helper.make_tensor_value_info("x", 1, [None] * x.ndim)],
        [helper.make_tensor_value_info(name, 1, [None] * x.ndim)],
        nodes.initializers,
    )
    opset = [helper.make_opsetid("", 21)]
    model = helper.make_model(graph, opset_imports=opset, ir_version=10)
    onnx.checker.check_model(model)
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    return session.run(None, {"x": x})[0]


def edges(values, scales):
    """Every middle between neighbouring values, and its float32 neighbours."""
    middles = (values[1:] + values[:-1]) / 2
    every = np.concatenate([values, middles]).astype(np.float32)
    near = [np.nextafter(every, np.float32(s), dtype=np.float32) for s in (-1e9, 1e9)]
    signed = np.concatenate([every, *near])
    signed = np.concatenate([signed, -signed])
    return np.concatenate([(signed * np.float32(s)).astype(np.float32) for s in scales])


def adversarial(fmt, length):
    """Rows of zeros, ties and their neighbours, tiny, subnormal and huge numbers."""
    element = FORMATS[FORMATS[fmt].element or fmt]
    values = element.decoded if element.bits <= 8 else np.arange(-8, 8)
    values = np.unique(values[np.isfinite(values) & (values >= 0)]).astype(np.float32)
    flat = edges(values, [1, 2**-3, 1 / 3, 1e-5, 2.0**100, 2.0**-120])
    rng = np.random.default_rng(7)
    flat = np.concatenate([flat, rng.standard_normal(4 * length).astype(np.float32)])
    rows = np.resize(flat, (-(-flat.size // length), length))
    extra = np.zeros((8, length), np.float32)
    extra[1, 0] = 448
    extra[2, 3] = -1e-44
    extra[3] = 3e38
    extra[4, ::2] = 1.5
    extra[4, -1] = -6
    extra[5] = np.float32(2.0**127)
    extra[6] = 2.0**-126
    extra[7] = -0.0
    return np.concatenate([rows, extra])


def scheme_for(name, amax):
    """A scheme calibrated with the largest input."""
    return dataclasses.replace(SCHEMES[name], calibration={"fc": amax, "conv": amax})


@pytest.mark.parametrize("amax", [1.0, 6.0, 448.0, 3e38, 1e-30])
@pytest.mark.parametrize("name", QUANTIZED)
def test_a_linear_input_is_numerics_exactly(name, amax, linear):
    """Ties, tails, zeros, subnormals and the largest numbers, at every scale."""
    scheme = scheme_for(name, amax)
    x = adversarial(scheme.activations.format, 70)

    with np.errstate(all="ignore"):
        expected = quantize_activation(linear, x, scheme).dequantize()

    # Zeros compare equal whatever their sign.
    np.testing.assert_array_equal(run(linear, scheme, x), expected)


@pytest.mark.parametrize("name", QUANTIZED)
def test_a_convolution_input_is_numerics_exactly(name, conv, rng):
    """Blocks along the channels, one scale a sample otherwise; two spatial axes."""
    scheme = scheme_for(name, 3.0)
    x = rng.standard_normal((3, 40, 4, 5)).astype(np.float32)
    x[1] = np.round(x[1] * 8) / 8
    x[2, :33] = 0

    expected = quantize_activation(conv, x, scheme).dequantize()

    np.testing.assert_array_equal(run(conv, scheme, x), expected)


def test_leading_axes_are_kept(linear, rng):
    """A batch of sequences comes back as a batch of sequences."""
    x = rng.standard_normal((2, 5, 70)).astype(np.float32)

    found = run(linear, SCHEMES["mxfp4"], x)

    expected = quantize_activation(linear, x, SCHEMES["mxfp4"]).dequantize()
    np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize(
    "tensor",
    [
        TensorScheme(format="nvfp4", granularity="block"),
        TensorScheme(format="mxfp8_e5m2", granularity="block"),
        TensorScheme(format="fp8_e5m2", granularity="row"),
        TensorScheme(format="fp8_e4m3fnuz", granularity="row"),
        TensorScheme(format="int4", granularity="row"),
        TensorScheme(format="fp8_e4m3", granularity="tensor"),
    ],
    ids=lambda tensor: f"{tensor.format}-{tensor.granularity}",
)
def test_a_suite_s_own_scheme_is_numerics_exactly(tensor, linear):
    """Formats and granularities that no shipped scheme uses."""
    scheme = Scheme(name="own", weights=None, activations=tensor)
    x = adversarial(tensor.format, 70)[:-6]

    expected = quantize_activation(linear, x, scheme).dequantize()

    np.testing.assert_array_equal(run(linear, scheme, x), expected)


def test_the_comparison_sees_one_wrong_rule(linear, rng):
    """The tests above can fail: another scale rule gives other numbers."""
    x = rng.standard_normal((4, 70)).astype(np.float32)
    other = dataclasses.replace(
        SCHEMES["mxfp4"],
        activations=dataclasses.replace(SCHEMES["mxfp4"].activations, rule="ceil"),
    )

    expected = quantize_activation(linear, x, other).dequantize()

    assert not np.array_equal(run(linear, SCHEMES["mxfp4"], x), expected)


@pytest.mark.parametrize(
    ("tensor", "message"),
    [
        (TensorScheme(format="nf4", granularity="row"), "nf4 activations"),
        (TensorScheme(format="mxfp4", granularity="block", rule="even"), "rule 'even'"),
        (TensorScheme(format="nvfp4", granularity="block", rule="4over6"), "4over6"),
        (TensorScheme(format="int8", granularity="row", rule="full"), "rule 'full'"),
        (TensorScheme(format="int8", granularity="block", block=32), "in groups"),
        (
            TensorScheme(format="int4", granularity="tensor", dynamic=False),
            "static int4",
        ),
    ],
    ids=lambda value: getattr(value, "format", ""),
)
def test_what_has_no_nodes_says_so(tensor, message, linear):
    """A format or rule that cannot be expressed is refused, not approximated."""
    scheme = Scheme(
        name="own", weights=None, activations=tensor, calibration={"fc": 1.0}
    )

    with pytest.raises(UnsupportedError, match=message):
        quantize_input(Nodes("t"), linear, scheme, "x")
