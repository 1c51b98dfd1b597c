"""Choosing the next token: the same way on every backend, so that draws are paired."""

from __future__ import annotations

import hashlib
from typing import Any

import numpy as np

from harness.backends.protocol import Request

Array = np.ndarray[Any, np.dtype[Any]]


def gumbel(request: Request, step: int, size: int) -> Array:
    """float32 (size,) noise that turns the largest logit into a sample.

    It depends on the request's name, its seed and the step alone, so that a reference
    and a target draw alike: where they differ, their logits do.
    """
    key = f"{request.name}/{request.seed}/{step}".encode()
    seed = int.from_bytes(hashlib.sha256(key).digest()[:8], "little")
    return np.random.default_rng(seed).gumbel(size=size).astype(np.float32)


def scores_of(logits: Array, request: Request, step: int) -> Array:
    """float32 (vocabulary,) scores, whose largest is the next token; NaN is the least.

    Args:
        logits: float32 (vocabulary,).
        request: how to choose.
        step: tokens that were chosen before.
    """
    scores: Array = np.nan_to_num(logits, nan=-np.inf)
    if request.temperature > 0:
        noise = gumbel(request, step, len(logits))
        scores = scores / np.float32(request.temperature) + noise
    return scores


def choose(logits: Array, request: Request, step: int) -> tuple[int, float]:
    """The next token and its probability at temperature 1; NaN chooses token 0.

    Args:
        logits: float32 (vocabulary,).
        request: how to choose.
        step: tokens that were chosen before.
    """
    token = int(scores_of(logits, request, step).argmax())
    wide = logits.astype(np.float64)
    largest = wide.max()
    return token, float(np.exp(wide[token] - largest) / np.exp(wide - largest).sum())
