"""In which order a backend adds: read off from sums in which one term swallows others.

A large number M at place i and -M at place j swallow every 1 that is added to M before
the two meet, so the sum of K numbers is the count of ones outside the smallest subtree
of the summation that holds both i and j. All pairs together give the whole tree (Xie et
al., "FPRev: revealing the order of floating-point summation", 2024). Two backends, or
two versions of one, with the same fingerprint add alike.
"""

from __future__ import annotations

import hashlib
import itertools
from pathlib import Path
from typing import Any, Final

import numpy as np

from harness.backends.protocol import Backend
from harness.conformance.probes import Probe, Shape
from harness.conformance.report import CheckReport
from harness.numerics import find_format
from harness.schemes.types import Scheme

Array = np.ndarray[Any, np.dtype[Any]]

#: Terms of the sum; small enough that every count is exact in bfloat16.
TERMS: Final = 32
#: Swallows up to 63 ones in float32: the distance between its neighbours is 128.
_LARGE: Final = 2.0**30


def order(backend: Backend, scheme: Scheme, folder: Path) -> CheckReport:
    """The summation's tree as a fingerprint, and its name if it has one."""
    reason = _unfit(scheme)
    if reason:
        return CheckReport(name="order", passed=None, detail=reason)
    pairs = list(itertools.combinations(range(TERMS), 2))
    x = np.ones((len(pairs), TERMS + 1), np.float32)
    for row, (i, j) in enumerate(pairs):
        x[row, [i, j]] = _LARGE, -_LARGE
    # The last weight gives the others the scale 1, and meets nothing.
    x[:, -1] = 0
    weight = np.ones((16, TERMS + 1))
    assert scheme.weights is not None  # sanity check
    weight[:, -1] = find_format(scheme.weights.format).max
    with Probe(backend, scheme, Shape(weight), folder) as probe:
        left = probe(x)[:, 0]
    sizes = np.full((TERMS, TERMS), 0)
    for (i, j), ones in zip(pairs, left, strict=True):
        sizes[i, j] = sizes[j, i] = TERMS - round(float(ones))
    digest = hashlib.sha256(sizes.astype(np.int16).tobytes()).hexdigest()[:12]
    return CheckReport(
        name="order",
        passed=True,
        detail=f"{describe(sizes)}, fingerprint {digest}",
        cases=len(pairs),
    )


def _unfit(scheme: Scheme) -> str:
    if (
        scheme.activations is not None
        or scheme.outputs is not None
        or scheme.weights is None
    ):
        return "inputs are quantized: they cannot hold the numbers that show it"
    if find_format(scheme.weights.format).kind == "block" or scheme.weights.block:
        return "weights in blocks: shown by the schemes with a scale a channel"
    return ""


def describe(sizes: Array) -> str:
    """A name for a tree: (TERMS, TERMS) counts of leaves under each pair.

    "exact" is a sum in which nothing was swallowed: wider arithmetic, or an order that
    depends on the values.
    """
    index = np.arange(len(sizes))
    upper = np.triu_indices(len(sizes), 1)
    if (sizes[upper] <= 2).all():
        return "exact"
    sequential = np.maximum(index[:, None], index) + 1
    if np.array_equal(sizes[upper], sequential[upper]):
        return "sequential"
    if np.array_equal(sizes[upper], sequential[::-1, ::-1][upper]):
        return "sequential, from the last"
    for lanes in (2, 4, 8, 16):
        together = index[:, None] % lanes == index % lanes
        near = sizes[together & ~np.eye(len(sizes), dtype=bool)]
        far = sizes[~together]
        if near.max() < far.min() or near.max() <= len(sizes) // lanes < far.min():
            return f"{lanes} lanes, then their sum"
    return "another tree"
