"""The unquantized model that the kept checkpoints were made of, for suites of tests."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from harness.models.huggingface import load_module
from harness.models.torch_model import TorchModel
from harness.models.types import TensorSpec

from .folders import BASE


class Logits(torch.nn.Module):
    """Token ids to logits."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = load_module(BASE, headed="LlamaForCausalLM")

    def forward(self, input_ids: torch.Tensor) -> dict[str, Any]:
        """(B, T) to (B, T, 16)."""
        return {"logits": self.inner(input_ids=input_ids, use_cache=False).logits}


def model() -> TorchModel:
    """Called by `suite.model`."""
    return TorchModel(
        "tiny",
        Logits,
        inputs=(TensorSpec("input_ids", "int64", (None, None)),),
        outputs=(TensorSpec("logits", "float32", (None, None, 16)),),
        example={"input_ids": np.arange(8).reshape(1, 8)},
    )
