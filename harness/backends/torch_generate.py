"""Generation with a language model in torch: batched, cached, reproducible."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np
import torch

from harness.backends.protocol import Generated, Request
from harness.backends.sampling import gumbel
from harness.models.kv_cache import keep_rows, mask_with_one_more

Array = np.ndarray[Any, np.dtype[Any]]

#: Tokens of the prompts of one batch, padding included: attention that is written out
#: holds a number for every pair of tokens of a row and every head.
MOST_TOKENS: Final = 4096


@dataclass
class _Row:
    """One request on its way."""

    request: Request
    tokens: list[int] = field(default_factory=list)
    probabilities: list[float] = field(default_factory=list)
    ended: bool = False

    @property
    def done(self) -> bool:
        return self.ended or len(self.tokens) >= self.request.longest


def generate(
    module: Any, requests: Sequence[Request], *, end: int | None, batch: int
) -> dict[str, Generated]:
    """Continue every prompt, greedily or by seeded sampling.

    Requests of similar lengths share a batch, padded on the left; a row leaves its
    batch when it ends. Sampling adds Gumbel noise that depends on the request's name,
    its seed and the step alone, so that a reference and a target draw alike: where
    they differ, their logits do.

    Args:
        module: with `new_cache` and `step`, see `harness.models.language`.
        requests: prompts with at least one token each.
        end: the token that ends a reply; None: none does.
        batch: most prompts at a time.
    """
    found: dict[str, Generated] = {}
    for group in _groups(requests, batch):
        with torch.inference_mode():
            _run(module, group, end)
        for row in group:
            found[row.request.name] = Generated(
                tokens=np.array(row.tokens, dtype=np.int64),
                probabilities=np.array(row.probabilities, dtype=np.float32),
                ended=row.ended,
            )
    return {request.name: found[request.name] for request in requests}


def _groups(requests: Sequence[Request], batch: int) -> Iterator[list[_Row]]:
    ordered = sorted(requests, key=lambda r: (-len(r.tokens), r.name))
    while ordered:
        count = max(1, min(batch, MOST_TOKENS // len(ordered[0].tokens)))
        yield [_Row(request) for request in ordered[:count]]
        ordered = ordered[count:]


def _run(module: Any, group: list[_Row], end: int | None) -> None:
    width = max(len(row.request.tokens) for row in group)
    ids = torch.zeros(len(group), width, dtype=torch.int64)
    mask = torch.zeros_like(ids)
    for index, row in enumerate(group):
        count = len(row.request.tokens)
        ids[index, width - count :] = torch.from_numpy(row.request.tokens)
        mask[index, width - count :] = 1
    device = next(module.parameters()).device
    ids, mask = ids.to(device), mask.to(device)
    cache = module.new_cache()
    alive = list(group)
    while alive:
        logits = module.step(ids, mask, cache).float().cpu()
        chosen, probability = _choose(logits, alive)
        for row, token, p in zip(alive, chosen, probability, strict=True):
            row.tokens.append(token)
            row.probabilities.append(p)
            row.ended = token == end
        left = [i for i, row in enumerate(alive) if not row.done]
        if len(left) < len(alive):
            rows = torch.tensor(left, dtype=torch.int64, device=device)
            alive, mask = [alive[i] for i in left], mask[rows]
            keep_rows(cache, rows)
        following = [row.tokens[-1] for row in alive]
        ids = torch.tensor(following, dtype=torch.int64, device=device)[:, None]
        mask = mask_with_one_more(mask)


def _choose(
    logits: torch.Tensor, rows: Sequence[_Row]
) -> tuple[list[int], list[float]]:
    """The next token of every row and its probability; NaN chooses token 0."""
    chosen = []
    for values, row in zip(logits, rows, strict=True):
        request = row.request
        scores = torch.nan_to_num(values, nan=-torch.inf)
        if request.temperature > 0:
            noise = torch.from_numpy(gumbel(request, len(row.tokens), len(values)))
            scores = scores / request.temperature + noise
        chosen.append(int(scores.argmax()))
    index = torch.tensor(chosen)[:, None]
    probability = logits.softmax(dim=-1).gather(1, index)[:, 0]
    return chosen, probability.tolist()
