"""The keys and values that a language model keeps of the tokens it has read."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final

import torch
from torch import Tensor as T  # noqa: N817 - as short as it is frequent
from transformers.cache_utils import Cache, DynamicLayer

#: Keys or values (batch, heads, tokens, width) -> what is read back once stored.
Rounding = Callable[[T], T]
#: Tokens that there is room for at least, beyond those that are held.
_SPARE: Final = 32


class RoundedLayer(DynamicLayer):  # type: ignore[misc]  # transformers is untyped
    """Keys and values of one layer, stored in few bits and read back at once.

    What is stored is rounded when it is written, never again: a token's entry does not
    depend on how many follow it. There is room for more than is held: appending a
    token writes that token, and does not copy all that came before.
    """

    def __init__(self, rounding: Rounding | None) -> None:
        super().__init__()
        self._rounding = rounding
        self._room: tuple[T, T] | None = None

    def update(self, key_states: T, value_states: T, *_: Any, **__: Any) -> tuple[T, T]:
        """Append, and return all of the layer."""
        if self._rounding is not None:
            key_states = self._rounding(key_states)
            value_states = self._rounding(value_states)
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        held = self.get_seq_length()
        length = held + key_states.shape[-2]
        self._grow(key_states, held, length)
        assert self._room is not None  # sanity check
        for room, new in zip(self._room, (key_states, value_states), strict=True):
            room[..., held:length, :] = new
        self.keys, self.values = (room[..., :length, :] for room in self._room)
        return self.keys, self.values

    def _grow(self, like: T, held: int, length: int) -> None:
        """Make room for `length` tokens, and half as many again."""
        if self._room is not None and self._room[0].shape[-2] >= length:
            return
        shape = (*like.shape[:-2], length + max(_SPARE, length // 2), like.shape[-1])
        found = []
        for old in (self.keys, self.values):
            room = like.new_empty(shape)
            if held:
                room[..., :held, :] = old
            found.append(room)
        self._room = (found[0], found[1])

    def batch_select_indices(self, indices: T) -> None:
        """Drop the other rows; what is left has room as before."""
        if self._room is None:
            self.keys, self.values = self.keys[indices], self.values[indices]
            return
        length = self.keys.shape[-2]
        self._room = (self._room[0][indices], self._room[1][indices])
        self.keys, self.values = (room[..., :length, :] for room in self._room)

    def join(self, layers: Sequence[RoundedLayer]) -> None:
        """Hold the rows of all of these, padded on the left to the longest."""
        if len(layers) > 1:
            self.keys = padded_on_the_left([e.keys for e in layers], axis=2)
            self.values = padded_on_the_left([e.values for e in layers], axis=2)
            self._room = None


class HeldLayer:
    """Keys and values of one layer that an engine gives out and takes in whole."""

    def __init__(self) -> None:
        #: (batch, heads, tokens, width); None: nothing was read yet.
        self.keys: T | None = None
        self.values: T | None = None

    def batch_select_indices(self, indices: T) -> None:
        """Drop the other rows."""
        if self.keys is not None and self.values is not None:
            self.keys, self.values = self.keys[indices], self.values[indices]

    def join(self, layers: Sequence[HeldLayer]) -> None:
        """Hold the rows of all of these, padded on the left to the longest."""
        keys = [layer.keys for layer in layers if layer.keys is not None]
        values = [layer.values for layer in layers if layer.values is not None]
        self.keys = padded_on_the_left(keys, axis=2)
        self.values = padded_on_the_left(values, axis=2)


@dataclass
class HeldCache:
    """What an engine of arrays has read."""

    layers: list[HeldLayer]


def new_cache(layers: int, rounding: Rounding | None) -> Cache:
    """An empty cache of a model with that many layers."""
    return Cache(layers=[RoundedLayer(rounding) for _ in range(layers)])


def keep_rows(cache: Cache | HeldCache, rows: T) -> None:
    """Drop the rows of a batch that have ended."""
    for layer in cache.layers:
        layer.batch_select_indices(rows)


def join(cache: Cache | HeldCache, caches: Sequence[Cache | HeldCache]) -> None:
    """Let a cache hold the rows of all caches, itself among them, in their order."""
    for layer, layers in zip(
        cache.layers, zip(*(c.layers for c in caches), strict=True), strict=True
    ):
        layer.join(layers)


def padded_on_the_left(parts: Sequence[T], axis: int) -> T:
    """One batch of tensors (rows, ...), zeros before those that are shorter."""
    width = max(part.shape[axis] for part in parts)
    pad = [0, 0] * (parts[0].ndim - 1 - axis)
    padded = [
        torch.nn.functional.pad(part, [*pad, width - part.shape[axis], 0])
        for part in parts
    ]
    return torch.cat(padded)


def positions_of(attention_mask: T) -> T:
    """Each token's position, counted from its row's first that is not padding."""
    return (attention_mask.long().cumsum(dim=-1) - 1).clamp(min=0)


def mask_with_one_more(attention_mask: T) -> T:
    """The mask after one more token a row."""
    one = torch.ones_like(attention_mask[:, :1])
    return torch.cat([attention_mask, one], dim=1)
