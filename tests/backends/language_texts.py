"""Texts that every engine of the tiny language model reads, and how near it comes."""

from __future__ import annotations

from harness.models.types import Case

TEXTS = ("hello", "what is 2 + 2?", "a much longer text, with more words and a 7", "h")
#: float32 sums of a few hundred products in another order.
NEAR = {"rtol": 1e-4, "atol": 1e-4}


def cases(model):
    """Each text three times over, int64 (1, tokens), named by the text."""
    return [Case(t, model.prepare({"text": t * 3}, "")) for t in TEXTS]
