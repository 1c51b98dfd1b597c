"""A model of one operator computes what the operator computes."""

from __future__ import annotations

import numpy as np
import pytest

from harness.models.onnx_single import INPUT, single_operator
from harness.models.types import Operator
from harness.schemes.linear_algebra import add_bias, product

ort = pytest.importorskip("onnxruntime")
RNG = np.random.default_rng(0)


def make(kind, bias, groups=1):
    shape = (8, 6) if kind == "linear" else (8, 6 // groups, 3, 2)
    conv = {
        "stride": (2, 1),
        "padding": ((1, 0), (0, 1)),
        "dilation": (1, 2),
        "groups": groups,
    }
    return Operator(
        name="layer.1",
        kind=kind,
        weight=RNG.standard_normal(shape).astype(np.float32),
        bias=RNG.standard_normal(8).astype(np.float32) if bias else None,
        **(conv if kind == "conv" else {}),
    )


@pytest.mark.parametrize(
    "operator",
    [
        make("linear", bias=True),
        make("linear", bias=False),
        make("conv", bias=True),
        make("conv", bias=False, groups=2),
    ],
)
def test_the_model_is_the_operator(operator):
    """Within float32 rounding; the node carries its name."""
    shape = (5, 6) if operator.kind == "linear" else (2, 6, 9, 8)
    x = RNG.standard_normal(shape).astype(np.float32)
    model = single_operator(operator)

    session = ort.InferenceSession(model.SerializeToString())
    (y,) = session.run(None, {INPUT: x})

    exact = product(operator, x.astype(np.float64), operator.weight.astype(np.float64))
    np.testing.assert_allclose(y, add_bias(operator, exact), atol=1e-5)
    assert model.graph.node[0].name == "layer.1"
