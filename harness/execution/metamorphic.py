"""What must not change a language model's logits: padding, what follows, a cache.

Nothing is known of the right logits here, only that two ways to ask the same must
agree: beside padding, before other tokens, and in pieces through the cache.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

import numpy as np

from harness.backends.protocol import Session
from harness.models.types import Case

Array = np.ndarray[Any, np.dtype[Any]]
Inputs = dict[str, Array]

#: Tokens of padding, and of what follows.
_MORE: Final = 7
#: Tokens of a piece of a prompt that is read through the cache, at most.
PIECE: Final = 24


def padded(inputs: Mapping[str, Array]) -> Inputs:
    """The same tokens after some of padding, which the mask hides."""
    ids, mask = inputs["input_ids"], inputs["attention_mask"]
    fill = np.repeat(ids[:, :1], _MORE, axis=1)
    return {
        "input_ids": np.concatenate([fill, ids], axis=1),
        "attention_mask": np.concatenate([np.zeros_like(fill), mask], axis=1),
        "positions": inputs["positions"] + _MORE,
    }


def _piece(inputs: Mapping[str, Array]) -> int:
    """At least two pieces, or the cache would never be read."""
    return max(1, min(PIECE, inputs["input_ids"].size // 2))


def followed(inputs: Mapping[str, Array]) -> Inputs:
    """The same tokens before others, which no earlier position may see."""
    ids, mask = inputs["input_ids"], inputs["attention_mask"]
    more = ids[:, np.arange(_MORE) % ids.shape[1]]
    return {
        "input_ids": np.concatenate([ids, more], axis=1),
        "attention_mask": np.concatenate([mask, np.ones_like(more)], axis=1),
        "positions": inputs["positions"],
    }


#: Name -> another way to ask the same.
WAYS: Final[Mapping[str, Callable[[Mapping[str, Array]], Inputs]]] = {
    "padding": padded,
    "what follows": followed,
}


def ask_again(
    session: Session, cases: Sequence[Case]
) -> dict[str, dict[str, dict[str, Array]]]:
    """Way -> case -> outputs, of the cases that a language model takes.

    "cache" is only there where the session can read a prompt in pieces.
    """
    chosen = [case for case in cases if "positions" in case.inputs]
    if not chosen:
        return {}
    found = {
        way: {c.id: dict(session.run(change(c.inputs))) for c in chosen}
        for way, change in WAYS.items()
    }
    in_pieces = getattr(session, "run_in_pieces", None)
    if in_pieces is not None:
        found["cache"] = {
            c.id: dict(in_pieces(c.inputs, _piece(c.inputs))) for c in chosen
        }
    return found
