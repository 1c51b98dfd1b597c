"""Probabilities over classes, whole or as a golden keeps them."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np

from harness.compare.arrays import as_array
from harness.compare.logits import LogitsComparison, compare_logits
from harness.compare.metric import alike
from harness.compare.rows import five_largest

Array = np.ndarray[Any, np.dtype[Any]]


def compare_probabilities(reference: Any, candidate: Any) -> LogitsComparison:
    """Compare probabilities over the last axis; their logarithms are logits.

    Of a golden that kept the most likely classes and the sum of the others, the
    divergences take the others for one class, which makes them lower bounds (data
    processing inequality). Top-1 and top-5 agreement are exact: the kept classes are
    named, and the candidate is whole.

    Args:
        reference: (..., classes), or a golden's compact output of them.
        candidate: the target's whole (..., classes); NaN, Inf, a negative number or
            another shape is a `problem`.
    """
    whole = as_array(candidate)
    if tuple(whole.shape) != tuple(reference.shape):
        shapes = f"shape={tuple(whole.shape)}, but should be {tuple(reference.shape)}"
        return LogitsComparison(problem=shapes)
    both = [as_array(x).astype(np.float64) for x in alike(reference, whole)]
    if any(not np.isfinite(x).all() or (x < 0).any() for x in (*both, whole)):
        return LogitsComparison(problem="not probabilities: negative or not finite")
    with np.errstate(divide="ignore"):
        logs = [np.maximum(np.log(x), -700.0) for x in both]
    found = compare_logits(*logs)
    indices = getattr(reference, "indices", np.zeros(0))
    return found if found.problem or not indices.size else _named(found, indices, whole)


def _named(found: LogitsComparison, indices: Array, whole: Array) -> LogitsComparison:
    """Agreement by the classes' own numbers; the others together are no class."""
    kept = indices.reshape(-1, indices.shape[-1]).astype(np.int64)
    rows = whole.reshape(-1, whole.shape[-1]).astype(np.float64)
    flips = kept[:, 0] != rows.argmax(axis=1)
    five = min(5, kept.shape[1])
    top = five_largest(rows)
    same = (kept[:, :five, None] == top[:, None, :]).any(axis=2)
    return dataclasses.replace(
        found,
        flips=int(flips.sum()),
        flip_rows=flips,
        first_divergence=int(flips.argmax()) if flips.any() else None,
        top1_agreement=float(1 - flips.mean()),
        top5_agreement=float(same.mean()),
    )
