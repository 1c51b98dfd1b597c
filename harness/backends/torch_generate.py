"""Generation with a language model in torch: batched, cached, reproducible."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np
import torch

from harness.backends.protocol import Generated, Request
from harness.backends.sampling import gumbel
from harness.models.kv_cache import (
    join,
    keep_rows,
    mask_with_one_more,
    padded_on_the_left,
)

Array = np.ndarray[Any, np.dtype[Any]]

#: Tokens of the prompts that are read, or continued, at a time, padding included: of
#: each the keys and values of all layers are held, and by some engines held twice.
MOST_TOKENS: Final = 8192
#: A prompt is not read beside one of more than so many times its length: padding is
#: computed like any token.
_UNEVEN: Final = 1.25
#: Nor continued beside one so many times as long, whose cache all would be padded to.
_LONGER: Final = 8


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
    module: Any,
    requests: Sequence[Request],
    *,
    ends: Collection[int],
    batch: int,
    device: str = "cpu",
) -> dict[str, Generated]:
    """Continue every prompt, greedily or by seeded sampling.

    Prompts of similar lengths are read together, padded on the left; what was read is
    then joined and continued in one batch, for a step reads every weight once, for one
    row or for many. A row leaves the batch when it ends. Sampling adds Gumbel noise
    that depends on the request's name,
    its seed and the step alone, so that a reference and a target draw alike: where
    they differ, their logits do.

    Args:
        module: with `new_cache` and `step`, see `harness.models.language`.
        requests: prompts with at least one token each.
        ends: tokens that end a reply; empty: none does.
        batch: most prompts at a time.
        device: where the module is.
    """
    found: dict[str, Generated] = {}
    for group in _groups(requests, batch):
        with torch.inference_mode():
            _run(module, group, ends, device)
        for row in group:
            found[row.request.name] = Generated(
                tokens=np.array(row.tokens, dtype=np.int64),
                probabilities=np.array(row.probabilities, dtype=np.float32),
                ended=row.ended,
            )
    return {request.name: found[request.name] for request in requests}


def _groups(requests: Sequence[Request], batch: int) -> Iterator[list[_Row]]:
    """What is continued together, the longest prompts first."""
    ordered = sorted(requests, key=lambda r: (-len(r.tokens), r.name))
    while ordered:
        longest = len(ordered[0].tokens)
        most = max(1, min(batch, MOST_TOKENS // longest))
        group = [r for r in ordered[:most] if len(r.tokens) >= longest / _LONGER]
        yield [_Row(request) for request in group]
        ordered = ordered[len(group) :]


def _readings(group: Sequence[_Row]) -> Iterator[list[_Row]]:
    """What of a group is read together; rows come ordered by length."""
    rest = list(group)
    while rest:
        longest = len(rest[0].request.tokens)
        count = sum(len(row.request.tokens) * _UNEVEN >= longest for row in rest)
        count = max(1, min(count, MOST_TOKENS // longest))
        yield rest[:count]
        rest = rest[count:]


def _read(
    module: Any, group: Sequence[_Row], device: str
) -> tuple[torch.Tensor, torch.Tensor, Any]:
    """Read prompts: the logits after each, the mask of their tokens, the cache."""
    width = max(len(row.request.tokens) for row in group)
    ids = torch.zeros(len(group), width, dtype=torch.int64)
    mask = torch.zeros_like(ids)
    for index, row in enumerate(group):
        count = len(row.request.tokens)
        ids[index, width - count :] = torch.from_numpy(row.request.tokens)
        mask[index, width - count :] = 1
    ids, mask = ids.to(device), mask.to(device)
    cache = module.new_cache()
    return module.step(ids, mask, cache), mask, cache


def _run(module: Any, group: list[_Row], ends: Collection[int], device: str) -> None:
    read = [_read(module, part, device) for part in _readings(group)]
    logits = torch.cat([entry[0] for entry in read])
    mask = padded_on_the_left([entry[1] for entry in read], axis=1)
    cache = read[0][2]
    join(cache, [entry[2] for entry in read])
    del read
    alive = list(group)
    while alive:
        chosen, probability = _choose(logits.float().cpu(), alive)
        for row, token, p in zip(alive, chosen, probability, strict=True):
            row.tokens.append(token)
            row.probabilities.append(p)
            row.ended = token in ends
        left = [i for i, row in enumerate(alive) if not row.done]
        if not left:
            return
        if len(left) < len(alive):
            rows = torch.tensor(left, dtype=torch.int64, device=mask.device)
            alive, mask = [alive[i] for i in left], mask[rows]
            keep_rows(cache, rows)
        following = [row.tokens[-1] for row in alive]
        ids = torch.tensor(following, dtype=torch.int64, device=mask.device)[:, None]
        mask = mask_with_one_more(mask)
        logits = module.step(ids, mask, cache)


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
