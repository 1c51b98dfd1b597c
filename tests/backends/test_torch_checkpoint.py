"""The torch backend runs stored weights as they are."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from harness.backends.torch_layers import QuantizedLayer, StoredWeight
from harness.errors import UnsupportedError
from harness.models.checkpoint import Checkpoint
from harness.models.types import Operator
from harness.numerics import quantize
from harness.schemes.apply import OperatorPlan, plan_one
from harness.schemes.checkpoint import scheme_of_checkpoint
from harness.schemes.onnx_nodes import Nodes
from harness.schemes.onnx_weights import store_weight
from harness.schemes.types import Scheme, TensorScheme

KEPT = Path(__file__).parents[1] / "models" / "checkpoints"
DOWN = "model.layers.0.mlp.down_proj"


@pytest.mark.parametrize("name", ["ct-fp8-block", "ct-int4-asym", "qk-int8", "ct-int8"])
def test_decodes_boxes_and_zero_points(name):
    """Boxes of scales and zero points are decoded as the oracle decodes them."""
    stored = Checkpoint(KEPT / name).layers[DOWN].read()
    found = StoredWeight(stored).shown().decoded
    assert np.array_equal(found, stored.dequantize())


def test_inputs_in_runs_of_fp8():
    """Dynamic FP8 scales of runs along the reduction, a shorter tail included."""
    layer = torch.nn.Linear(40, 3, bias=False)
    weight = layer.weight.detach().numpy()
    operator = Operator(name="a", kind="linear", weight=weight)
    runs = TensorScheme(format="fp8_e4m3", granularity="block", block=16)
    channel = TensorScheme(format="fp8_e4m3", granularity="channel")
    scheme = Scheme(name="s", weights=channel, activations=runs)
    quantized = QuantizedLayer(
        layer, operator, scheme, OperatorPlan(weights=True, activations=True)
    )
    x = np.random.default_rng(0).normal(size=(5, 40)).astype(np.float32)
    found = quantized._quantize(torch.from_numpy(x)).numpy()
    wanted = quantize(x, "fp8_e4m3", axis=-1, block=16).dequantize()
    assert np.array_equal(found, wanted)


@pytest.mark.parametrize(
    ("name", "message"),
    [("ct-fp8-block", r"boxes of \(16, 16\)"), ("ct-int4-asym", "zero points")],
)
def test_onnx_refuses_what_its_nodes_do_not_express(name, message):
    """Boxes and zero points are refused by the ONNX writer, not dropped."""
    scheme = scheme_of_checkpoint(KEPT / name)
    operator = Operator(name=DOWN, kind="linear", weight=np.ones((32, 64), np.float32))
    assert plan_one(scheme, operator).weights
    with pytest.raises(UnsupportedError, match=message):
        store_weight(Nodes("n"), operator, scheme, transposed=False)
