"""Where NNCF writes what ONNX does not define, we say so.

Measured with 3.4.0. Each test states what should be, and is expected to fail.
"""

from __future__ import annotations

import importlib.util

import numpy as np
import onnx
import pytest
from onnx import helper

from tests.models.graphs import model, random

needed = pytest.mark.skipif(
    importlib.util.find_spec("nncf") is None, reason="nncf is not installed"
)


def compressed(nodes, x, y, weight, **options):
    """What `nncf.compress_weights` makes of a model of one layer."""
    import nncf

    proto = model(nodes, {"x": x}, {"y": y}, {"w": weight})
    proto.ir_version = 10
    return nncf.compress_weights(proto, **options)


@needed
@pytest.mark.xfail(strict=True, reason="NNCF 3.4 gives a Conv scales of two axes")
def test_scales_of_a_convolution_are_one_a_channel():
    """Without block_size scales are one number, or one an index of one axis."""
    node = helper.make_node("Conv", ["x", "w"], ["y"], name="conv")
    found = compressed(
        [node], [None, 4, 9], [None, 5, 7], random(5, 4, 3), mode=mode("INT8_SYM")
    )
    scales = [t for t in found.graph.initializer if t.name == "w_scale"]

    assert [list(t.dims) for t in scales] == [[5]]


@needed
def test_a_linear_layer_is_compressed_as_onnx_defines_it():
    """The same call on a MatMul gives a file that is read, so the form is known."""
    node = helper.make_node("MatMul", ["x", "w"], ["y"], name="fc")
    found = compressed(
        [node], [None, 8], [None, 6], random(8, 6), mode=mode("INT8_SYM")
    )

    onnx.checker.check_model(found)
    scales = [t for t in found.graph.initializer if t.name == "w_scale"]
    assert [int(np.prod(t.dims)) for t in scales] == [6]


def mode(name):
    """A member of its enumeration."""
    import nncf

    return nncf.CompressWeightsMode[name]
