"""Candidate causes in the weight: other codes, other scales, another layout.

Written from what formats and layouts allow to go wrong, apart from the defects that are
planted: neither knows the other.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

from harness.diagnose.observation import Observation
from harness.diagnose.weight_codes import Named, decoded
from harness.diagnose.weight_layouts import codes_moved, layouts
from harness.diagnose.weight_offsets import wrong_offsets
from harness.diagnose.weight_readings import readings, roundings
from harness.diagnose.weight_scales import remade_scales, wrong_scales
from harness.numerics import Quantized
from harness.schemes.apply import quantize_weight


def candidates(seen: Observation) -> Iterator[Named]:
    """Every weight that a known mistake would make of this operator's."""
    if seen.stored is None:
        yield from layouts(seen.full_weight)
        return
    q = seen.stored
    yield "not quantized", "the weight is not quantized", seen.full_weight
    yield from readings(q)
    yield from roundings(seen, q)
    yield from remade_scales(seen, q)
    yield from wrong_scales(q)
    yield from wrong_offsets(q)
    yield from _of_others(seen, q)
    yield from layouts(seen.weight)
    yield from codes_moved(q)


def _of_others(seen: Observation, q: Quantized) -> Iterator[Named]:
    for other in seen.others:
        entry = quantize_weight(other, seen.scheme)
        yield (
            "another operator's weight",
            f"the weight is that of {other.name}",
            entry.dequantize(),
        )
        if entry.scales.shape == q.scales.shape:
            yield (
                "another operator's scales",
                f"the scales are those of {other.name}",
                decoded(q, scales=entry.scales),
            )
        if entry.global_scale != q.global_scale:
            swapped = dataclasses.replace(q, global_scale=entry.global_scale)
            yield (
                "another operator's tensor scale",
                f"the tensor's scale is that of {other.name}",
                swapped.dequantize(),
            )
