"""A language model as ONNX: the graph that engines of ONNX generate with.

One graph reads any number of tokens after any number that were read before, whose keys
and values come in as inputs and go out, longer, as outputs.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from harness.models.torch_model import TorchModel
from harness.models.types import TensorSpec

if TYPE_CHECKING:
    import onnx
    import torch

    from harness.models.language import LanguageModel

Array = np.ndarray[Any, np.dtype[Any]]

#: Inputs and outputs of keys and values, by layer.
#: Metadata of the graph: the tokens that end a reply, with spaces between.
ENDS: Final = "quantharness.ends"
PAST: Final = "past.{}.{}"
PRESENT: Final = "present.{}.{}"
_BOTH: Final = ("key", "value")
#: Tokens of the example: read before, read now; a branch on either would be frozen.
_EXAMPLE: Final = (3, 4)


def cached_form(model: LanguageModel, config: Mapping[str, Any]) -> TorchModel:
    """The model with its cache among inputs and outputs, which can be exported.

    Inputs are `input_ids` (batch, tokens), `attention_mask` (batch, tokens read before
    and now), `positions` (batch, rows: of the tokens read now those whose logits are
    wanted) and `past.LAYER.key`, `past.LAYER.value` (batch, heads, tokens read before,
    width); outputs `logits` (batch, rows, vocabulary) and `present.LAYER.*`.
    """
    layers = int(config["num_hidden_layers"])
    heads = int(config.get("num_key_value_heads") or config["num_attention_heads"])
    width = int(
        config.get("head_dim") or config["hidden_size"] // config["num_attention_heads"]
    )
    before, now = _EXAMPLE
    example: dict[str, Array] = {
        "input_ids": np.arange(1, 1 + 2 * now, dtype=np.int64).reshape(2, now),
        "attention_mask": np.ones((2, before + now), dtype=np.int64),
        "positions": np.array([[0, now - 1]] * 2, dtype=np.int64),
    }
    # One row is padded on the left, as a batch of prompts of several lengths is.
    example["attention_mask"][1, 0] = 0
    rng = np.random.default_rng(0)
    for name in cache_names(layers, PAST):
        drawn = rng.standard_normal((2, heads, before, width))
        example[name] = drawn.astype(np.float32)
    outputs = [TensorSpec("logits", "float32", (None, None, None), "logits")]
    outputs += [
        TensorSpec(name, "float32", (None,) * 4)
        for name in cache_names(layers, PRESENT)
    ]
    return TorchModel(
        model.name,
        lambda: _module(model.build(), layers),
        outputs=tuple(outputs),
        example=example,
        fingerprint=lambda: f"{model.fingerprint} with its cache",
        sources=(Path(__file__), *model.sources()),
    )


def described(form: TorchModel, *, ends: Sequence[int]) -> onnx.ModelProto:
    """The exported form; it says what is fixed of its cache, and what ends a reply.

    Raises:
        UnsupportedError: the exporter refuses the module.
    """
    assert form.example is not None  # sanity check
    proto = form.onnx()
    for value in proto.graph.input:
        if value.name.startswith(PAST.partition("{")[0]):
            for axis in (1, 3):
                size = form.example[value.name].shape[axis]
                value.type.tensor_type.shape.dim[axis].dim_value = size
    proto.metadata_props.add(key=ENDS, value=" ".join(map(str, ends)))
    return proto


def cache_names(layers: int, form: str) -> list[str]:
    """Names of all keys and values, in the graph's order."""
    return [form.format(layer, which) for layer in range(layers) for which in _BOTH]


def _module(causal: Any, layers: int) -> torch.nn.Module:
    import torch
    from transformers.cache_utils import DynamicCache

    from harness.models.kv_cache import positions_of

    class CachedForm(torch.nn.Module):  # type: ignore[misc]  # torch is untyped
        """The causal model's own layers under their own names."""

        def __init__(self) -> None:
            super().__init__()
            self.model = causal.model
            self.lm_head = causal.lm_head

        def forward(
            self,
            input_ids: torch.Tensor,
            attention_mask: torch.Tensor,
            positions: torch.Tensor,
            **past: torch.Tensor,
        ) -> tuple[torch.Tensor, ...]:
            pairs = [
                tuple(past[PAST.format(layer, which)] for which in _BOTH)
                for layer in range(layers)
            ]
            cache = DynamicCache(pairs)
            where = positions_of(attention_mask)[:, -input_ids.shape[1] :]
            hidden = self.model(
                input_ids,
                attention_mask=attention_mask,
                position_ids=where,
                past_key_values=cache,
                use_cache=True,
            )[0]
            # GatherND: onnx's own evaluator gathers from 64 elements at most.
            which = torch.arange(positions.shape[0]).unsqueeze(-1)
            logits = self.lm_head(hidden[which, positions])
            held = [t for layer in cache.layers for t in (layer.keys, layer.values)]
            return (logits, *held)

    return CachedForm()
