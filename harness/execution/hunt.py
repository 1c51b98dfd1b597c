"""Looking for the prompts that a target gets most wrong, inside a worker.

Prompts of the suite are changed at random, by tokens of each other, by digits, white
space and repetition; those that move the target furthest from the reference are changed
on. What is found is shortened while the distance stays, and proposed as cases.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from harness.backends.protocol import Session
from harness.backends.registry import Registry
from harness.compare.logits import compare_logits
from harness.errors import UnsupportedError
from harness.execution.jobs import HardPrompt, HuntJob, HuntRun
from harness.execution.loaded import Loaded
from harness.execution.oracle_run import with_precision
from harness.models.language import rows_of

Array = np.ndarray[Any, np.dtype[Any]]
Tokens = tuple[int, ...]

#: Prompts that are changed on, and tokens of the longest.
_KEPT: Final = 12
_LONGEST: Final = 160
#: A shortened prompt keeps this much of the distance.
_STAYS: Final = 0.8
_SNIPPETS: Final = (
    " 3.14159",
    "\n\n\n",
    " 😀",
    "    ",
    " 1000000",
    '{"a": [1, 2',
    "\t",
)
#: Share of the budget for the search; the rest shortens what was found.
_SEARCH: Final = 0.75


@dataclass(frozen=True, order=True)
class _Found:
    kl: float
    tokens: Tokens


def run_hunt(job: HuntJob, registry: Registry, loaded: Loaded) -> HuntRun:
    """Search for as long as the job allows.

    Raises:
        UnsupportedError: the model is no language model.
    """
    suite = loaded.get(job.suite)
    tokenizer = getattr(suite.model, "tokenizer", None)
    if tokenizer is None:
        raise UnsupportedError(
            f"{suite.model.name} is no language model: there are no prompts to change"
        )
    backend = registry.backend(job.backend)
    reference = with_precision(backend, job.precision).load(suite.model, None)
    target = backend.load(suite.model, job.scheme)
    try:
        seeds = [_tokens(case.inputs) for case in suite.cases]
        hunter = _Hunter(reference, target, tokenizer, job.suite.seed)
        start = time.monotonic()
        pool = hunter.search(
            [s for s in seeds if 2 <= len(s) <= _LONGEST],
            lambda: time.monotonic() - start < _SEARCH * job.seconds,
        )
        base = hunter.baseline
        found = [
            hunter.shorten(entry, lambda: time.monotonic() - start < job.seconds)
            for entry in pool[: job.count]
        ]
    finally:
        reference.close()
        target.close()
    return HuntRun(
        tried=hunter.tried,
        seed_kl=base,
        findings=tuple(
            HardPrompt(text=tokenizer.decode(f.tokens), kl=f.kl, tokens=len(f.tokens))
            for f in sorted(set(found), reverse=True)
        ),
    )


def _tokens(inputs: Any) -> Tokens:
    """The prompt of a case."""
    last = int(inputs["positions"].flat[0])
    ids: list[int] = inputs["input_ids"][0, : last + 1].tolist()
    return tuple(ids)


class _Hunter:
    """Scores prompts by the mean KL of their rows; remembers what it has seen."""

    def __init__(
        self, reference: Session, target: Session, tokenizer: Any, seed: int
    ) -> None:
        self._sessions = (reference, target)
        self._tokenizer = tokenizer
        self._draw = np.random.default_rng(seed)
        self._snippets = [tuple(tokenizer.encode(text)) for text in _SNIPPETS]
        self.tried = 0
        #: Mean KL of the suite's own prompts that were scored.
        self.baseline = float("nan")

    def score(self, tokens: Tokens) -> float:
        """Mean KL(reference || target); -inf for what is no text of its own."""
        if self._tokenizer.encode(self._tokenizer.decode(tokens)) != list(tokens):
            return -np.inf
        ids = np.array([tokens], dtype=np.int64)
        # As of a text of which every position counts.
        rows = rows_of(max(1, len(tokens) // 2), len(tokens))[None]
        feed = {"input_ids": ids, "attention_mask": np.ones_like(ids)}
        outputs = [s.run(feed | {"positions": rows})["logits"] for s in self._sessions]
        self.tried += 1
        found = compare_logits(*outputs)
        return -np.inf if found.problem else float(found.kl)

    def search(self, seeds: Sequence[Tokens], more: Callable[[], bool]) -> list[_Found]:
        """The furthest prompts, the furthest first."""
        pool: list[_Found] = []
        own: list[float] = []
        for index in self._draw.permutation(len(seeds)):
            if not more() or len(own) >= 2 * _KEPT:
                break
            kl = self.score(seeds[index])
            own.append(kl)
            pool.append(_Found(kl, seeds[index]))
        self.baseline = float(np.mean(own)) if own else float("nan")
        seen = {entry.tokens for entry in pool}
        while more() and pool:
            pool = sorted(pool, reverse=True)[:_KEPT]
            parent = pool[int(self._draw.integers(len(pool)))]
            child = self._changed(parent.tokens, seeds)
            if len(child) < 2 or child in seen:
                continue
            seen.add(child)
            pool.append(_Found(self.score(child), child))
        return [f for f in sorted(pool, reverse=True) if np.isfinite(f.kl)]

    def _changed(self, tokens: Tokens, seeds: Sequence[Tokens]) -> Tokens:
        """One random change."""
        draw = self._draw
        cut = int(draw.integers(1, len(tokens)))
        other = seeds[int(draw.integers(len(seeds)))]
        start = int(draw.integers(len(other)))
        part = other[start : start + int(draw.integers(1, 9))]
        snippet = self._snippets[int(draw.integers(len(self._snippets)))]
        width = int(draw.integers(1, 9))
        changed = (
            tokens[:cut] + part + tokens[cut + len(part) :],
            tokens[:cut] + part + tokens[cut:],
            tokens[:cut] + snippet + tokens[cut:],
            tokens[:cut] + tokens[max(0, cut - width) : cut] * 3 + tokens[cut:],
            tokens[:cut] + tokens[cut + width :],
        )[int(draw.integers(5))]
        return changed[:_LONGEST]

    def shorten(self, found: _Found, more: Callable[[], bool]) -> _Found:
        """The same with tokens left out, while most of the distance stays."""
        size = len(found.tokens) // 2
        best = found
        while size >= 1 and more():
            start = 0
            while start < len(best.tokens) and more():
                child = best.tokens[:start] + best.tokens[start + size :]
                kl = self.score(child) if len(child) >= 2 else -np.inf
                if kl >= _STAYS * found.kl:
                    best = _Found(kl, child)
                else:
                    start += size
            size //= 2
        return best
