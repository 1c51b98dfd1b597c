"""Generation with llama.cpp: prompts side by side, each in a sequence of its own."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np

from harness.backends.llama_cpp_engine import Context
from harness.backends.protocol import Generated, Request
from harness.backends.sampling import choose

Array = np.ndarray[Any, np.dtype[Any]]

#: Tokens of the prompts and replies of one group, room included: keys and values of
#: a group must fit into memory.
MOST_TOKENS: Final = 16384


@dataclass
class _Row:
    """One request on its way, in the sequence of that number."""

    request: Request
    sequence: int
    tokens: list[int] = field(default_factory=list)
    probabilities: list[float] = field(default_factory=list)
    ended: bool = False

    @property
    def done(self) -> bool:
        return self.ended or len(self.tokens) >= self.request.longest


def generate(
    room: Callable[[int, int, int], Context],
    requests: Sequence[Request],
    *,
    end: int,
    batch: int,
) -> dict[str, Generated]:
    """Continue every prompt, greedily or by seeded sampling as on any backend.

    Args:
        room: gives a context for so many sequences, tokens of each, rows of logits.
        requests: prompts with at least one token each.
        end: the token that ends a reply; negative: none does.
        batch: most prompts at a time.
    """
    found: dict[str, Generated] = {}
    left = sorted(requests, key=lambda r: (-_length(r), r.name))
    while left:
        count = max(1, min(batch, len(left), MOST_TOKENS // _length(left[0])))
        group = [_Row(request, index) for index, request in enumerate(left[:count])]
        _run(room(count, _length(left[0]), count), group, end)
        left = left[count:]
        for row in group:
            found[row.request.name] = Generated(
                tokens=np.array(row.tokens, dtype=np.int64),
                probabilities=np.array(row.probabilities, dtype=np.float32),
                ended=row.ended,
            )
    return {request.name: found[request.name] for request in requests}


def _length(request: Request) -> int:
    return len(request.tokens) + request.longest


def _run(context: Context, group: Sequence[_Row], end: int) -> None:
    context.clear()
    tokens = np.concatenate([row.request.tokens for row in group])
    places = np.concatenate([np.arange(len(row.request.tokens)) for row in group])
    owner = np.repeat(
        [row.sequence for row in group], [len(row.request.tokens) for row in group]
    )
    last = np.append(owner[1:] != owner[:-1], True)
    alive = list(group)
    logits = context.decode(tokens, places, owner, last)
    while True:
        for row, values in zip(alive, logits, strict=True):
            token, probability = choose(values, row.request, len(row.tokens))
            row.tokens.append(token)
            row.probabilities.append(probability)
            row.ended = token == end
        for row in (row for row in alive if row.done):
            context.drop(row.sequence)
        alive = [row for row in alive if not row.done]
        if not alive:
            return
        logits = context.decode(
            [row.tokens[-1] for row in alive],
            [len(row.request.tokens) + len(row.tokens) - 1 for row in alive],
            [row.sequence for row in alive],
            [True] * len(alive),
        )
