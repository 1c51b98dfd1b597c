"""The whole model with exactly quantized weights: those that were asked for, alone."""

from __future__ import annotations

import numpy as np
import pytest

from harness.backends.torch_backend import TorchBackend
from harness.execution.oracle_run import _Replaced
from harness.models.torch_model import TorchModel
from harness.schemes.catalogue import SCHEMES
from harness.schemes.oracle import dequantized_weights

torch = pytest.importorskip("torch")


class Tied(torch.nn.Module):
    """Tokens to vectors and back by one matrix, as small language models do."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.embedding = torch.nn.Embedding(96, 64)
        self.middle = torch.nn.Linear(64, 64)
        self.head = torch.nn.Linear(64, 96, bias=False)
        self.head.weight = self.embedding.weight

    def forward(self, x):
        return self.head(torch.tanh(self.middle(self.embedding(x))))


def test_an_embedding_that_shares_the_heads_weight_is_left_alone():
    """The head is quantized, and nothing else; as every backend does it."""
    x = np.arange(12, dtype=np.int64).reshape(2, 6)
    model = TorchModel("tied", Tied, example={"x": x})
    scheme = SCHEMES["int4"]
    weights = dequantized_weights(model.operators(), scheme)
    oracle = TorchBackend("fp32").load(_Replaced(model, weights), None).run({"x": x})
    target = TorchBackend().load(model, scheme).run({"x": x})
    plain = TorchBackend("fp32").load(model, None).run({"x": x})
    (name,) = oracle

    assert {"middle", "head"} == set(weights)
    assert np.allclose(oracle[name], target[name], rtol=1e-4, atol=1e-4)
    assert not np.allclose(oracle[name], plain[name], rtol=1e-2, atol=1e-2)
