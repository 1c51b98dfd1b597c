"""The keys and values that a language model keeps of the tokens it has read."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor as T  # noqa: N817 - as short as it is frequent
from transformers.cache_utils import Cache, DynamicLayer

#: Keys or values (batch, heads, tokens, width) -> what is read back once stored.
Rounding = Callable[[T], T]


class RoundedLayer(DynamicLayer):  # type: ignore[misc]  # transformers is untyped
    """Keys and values of one layer, stored in few bits and read back at once.

    What is stored is rounded when it is written, never again: a token's entry does not
    depend on how many follow it.
    """

    def __init__(self, rounding: Rounding | None) -> None:
        super().__init__()
        self._rounding = rounding

    def update(
        self, key_states: T, value_states: T, *args: Any, **kwargs: Any
    ) -> tuple[T, T]:
        """Append, and return all of the layer."""
        if self._rounding is not None:
            key_states = self._rounding(key_states)
            value_states = self._rounding(value_states)
        both: tuple[T, T] = super().update(key_states, value_states, *args, **kwargs)
        return both


def new_cache(layers: int, rounding: Rounding | None) -> Cache:
    """An empty cache of a model with that many layers."""
    return Cache(layers=[RoundedLayer(rounding) for _ in range(layers)])


def keep_rows(cache: Cache, rows: T) -> None:
    """Drop the rows of a batch that have ended."""
    for layer in cache.layers:
        layer.batch_select_indices(rows)


def positions_of(attention_mask: T) -> T:
    """Each token's position, counted from its row's first that is not padding."""
    return (attention_mask.long().cumsum(dim=-1) - 1).clamp(min=0)


def mask_with_one_more(attention_mask: T) -> T:
    """The mask after one more token a row."""
    one = torch.ones_like(attention_mask[:, :1])
    return torch.cat([attention_mask, one], dim=1)
