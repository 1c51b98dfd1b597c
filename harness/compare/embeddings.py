"""Embeddings: does the target find the same neighbours as the reference?"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np

from harness.compare.arrays import as_array

Array = np.ndarray[Any, np.dtype[Any]]

#: Low quantiles count: the worst embeddings are those that users meet as errors.
COSINE_QUANTILES: Final = (0.0, 0.01, 0.1, 0.5)


@dataclass(frozen=True, kw_only=True, eq=False)
class EmbeddingComparison:
    """Cosines of paired embeddings and overlap of their neighbourhoods.

    Where there is a `problem` every value is the worst.
    """

    problem: str = ""
    rows: int = 0
    cosine_mean: float = -1.0
    cosine_quantiles: Mapping[float, float] = field(default_factory=dict)
    #: k -> mean share of the reference's k nearest that the target has too.
    neighbour_overlap: Mapping[int, float] = field(default_factory=dict)
    #: Share of rows whose nearest neighbour is the same.
    nearest_agreement: float = 0.0
    cosine_rows: Array = field(default_factory=lambda: np.zeros(0))


def compare_embeddings(
    reference: Any, candidate: Any, *, neighbours: tuple[int, ...] = (1, 5, 10)
) -> EmbeddingComparison:
    """Compare embeddings row by row, and as a search index would use them.

    Neighbours are by cosine among the other rows of the same side; of equal ones the
    first. A zero embedding has cosine 0 with everything and 1 with another zero. NaN,
    Inf, another shape or no rows are a `problem`.

    Args:
        reference: (rows, width).
        candidate: the same shape.
        neighbours: sizes of neighbourhoods; those that need more rows are left out.
    """
    first = as_array(reference, name="reference")
    second = as_array(candidate, name="candidate")
    if first.shape != second.shape or first.ndim != 2:
        return EmbeddingComparison(
            problem=f"shape={second.shape}, but should be {first.shape}, two axes"
        )
    if first.size == 0:
        return EmbeddingComparison(problem="empty: nothing was compared")
    a, b = first.astype(np.float64), second.astype(np.float64)
    if not (np.isfinite(a).all() and np.isfinite(b).all()):
        return EmbeddingComparison(problem="not finite", rows=len(a))
    cosine = cosine_rows(a, b)
    sizes = tuple(k for k in neighbours if 0 < k < len(a))
    overlap = _overlap(_directions(a), _directions(b), sizes)
    found = np.quantile(cosine, COSINE_QUANTILES)
    return EmbeddingComparison(
        rows=len(a),
        cosine_mean=float(cosine.mean()),
        cosine_quantiles={
            q: float(v) for q, v in zip(COSINE_QUANTILES, found, strict=True)
        },
        neighbour_overlap=overlap,
        nearest_agreement=overlap.get(1, 0.0),
        cosine_rows=cosine,
    )


def cosine_rows(a: Array, b: Array) -> Array:
    """Cosine of each pair of rows; 1 for two zero rows, 0 if one alone is zero."""
    dot = (_directions(a) * _directions(b)).sum(axis=1)
    both_zero = ~a.any(axis=1) & ~b.any(axis=1)
    clipped: Array = np.clip(dot, -1.0, 1.0)
    return np.where(both_zero, 1.0, clipped)


def _directions(rows: Array) -> Array:
    """Rows of length one; zero rows stay zero. Scaled first, so nothing overflows."""
    largest = np.abs(rows).max(axis=1, keepdims=True)
    scaled = rows / np.where(largest > 0, largest, 1.0)
    norm = np.linalg.norm(scaled, axis=1, keepdims=True)
    found: Array = scaled / np.where(norm > 0, norm, 1.0)
    return found


def _overlap(a: Array, b: Array, sizes: tuple[int, ...]) -> dict[int, float]:
    """Mean overlap of neighbourhoods, a block of rows at a time."""
    if not sizes:
        return {}
    totals = dict.fromkeys(sizes, 0.0)
    step = max(1, (1 << 21) // len(a))
    for start in range(0, len(a), step):
        rows = np.arange(start, min(start + step, len(a)))
        near = [_nearest(side, rows, max(sizes)) for side in (a, b)]
        for k in sizes:
            same = near[0][:, :k, None] == near[1][:, None, :k]
            totals[k] += float(same.any(axis=2).mean(axis=1).sum())
    return {k: total / len(a) for k, total in totals.items()}


def _nearest(rows: Array, chosen: Array, count: int) -> Array:
    cosine = rows[chosen] @ rows.T
    cosine[np.arange(len(chosen)), chosen] = -np.inf
    found: Array = np.argsort(-cosine, axis=1, kind="stable")[:, :count]
    return found
