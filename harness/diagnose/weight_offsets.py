"""Candidate causes in what is subtracted from scaled codes, as GGUF's Q4_K has it."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import Any

import numpy as np

from harness.diagnose.weight_codes import Named
from harness.numerics import Quantized
from harness.numerics.layouts import Q4K
from harness.numerics.layouts.gguf_k import GROUP, make_q4k


def wrong_offsets(q: Quantized) -> Iterator[Named]:
    """The right codes over the wrong offsets; nothing where there are none."""
    if not isinstance(q, Q4K):
        return
    yield "offset missing", "nothing is subtracted", _with(q, dmin=q.dmin * 0)
    yield (
        "offset added",
        "offsets are added instead of subtracted",
        _with(q, dmin=-q.dmin),
    )
    for step in (1, -1):
        rolled = np.roll(q.minimums, step, axis=-1)
        yield (
            "offsets shifted along K",
            f"minimums shifted by {step} block along K",
            _with(q, minimums=rolled),
        )
        scales = np.roll(q.scales, step, axis=-1)
        yield (
            "scales shifted along K",
            f"scales and minimums shifted by {step} block along K",
            _with(q, minimums=rolled, scales=scales),
        )
    yield (
        "scales and offsets exchanged",
        "the six bits of scales are taken for those of minimums",
        make_q4k(q.codes, q.minimums, q.steps, q.d, q.dmin).dequantize(),
    )
    # A byte has codes of two neighbouring groups.
    pairs = q.codes.reshape(*q.shape[:-1], -1, 2, GROUP)[..., ::-1, :]
    yield (
        "codes of a byte swapped",
        "the two 4-bit codes of a byte change places",
        _with(q, codes=np.ascontiguousarray(pairs).reshape(q.shape)),
    )


def _with(q: Q4K, **parts: Any) -> Any:
    with np.errstate(all="ignore"):
        return dataclasses.replace(q, **parts).dequantize()
