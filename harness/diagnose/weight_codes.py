"""A stored weight with other codes or other scales, decoded."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np

from harness.numerics import Quantized, find_format, quantize

Array = np.ndarray[Any, np.dtype[Any]]
#: A cause's name, its detail, and the float32 weight that the operator would have.
Named = tuple[str, str, Array]


def decoded(q: Quantized, codes: Array | None = None, scales: Any = None) -> Array:
    """The float32 weight with these codes and scales instead of its own."""
    changed = dataclasses.replace(
        q,
        codes=q.codes if codes is None else np.asarray(codes, q.codes.dtype),
        scales=q.scales
        if scales is None
        else np.broadcast_to(np.asarray(scales, np.float32), q.scales.shape).copy(),
    )
    with np.errstate(all="ignore"):
        found: Array = changed.dequantize()
    return found


def again(
    q: Quantized, weight: Array, scales: Array | None = None, **options: Any
) -> Array:
    """Other codes of the same weight, under given scales."""
    blocked = find_format(q.format).kind == "block"
    chosen = q.scales if scales is None else np.asarray(scales, np.float32)
    # Where a mistake would make a scale that cannot be one, 1 stands for it.
    chosen = np.where(np.isfinite(chosen) & (chosen > 0), chosen, np.float32(1))
    return quantize(  # type: ignore[no-any-return]
        weight,
        q.format,
        axis=q.axis,
        block=q.block or None,
        scale=np.broadcast_to(chosen, q.scales.shape),
        global_scale=q.global_scale if blocked and q.global_scale != 1.0 else None,
        **options,
    ).dequantize()


def group_amax(q: Quantized, weight: Array, *, absolute: bool = True) -> Array:
    """float32 largest (magnitude) of each group, in the scales' shape."""
    view = q.grid.to_view(np.abs(weight) if absolute else weight)
    tall, wide = q.grid.tall, q.grid.wide
    outer, length, inner = view.shape
    padded = np.pad(
        view, [(0, 0), (0, -length % tall), (0, -inner % wide)], constant_values=-np.inf
    )
    boxes = padded.reshape(outer, padded.shape[1] // tall, tall, -1, wide)
    found: Array = q.grid.scales_from_view(boxes.max(axis=(2, 4)))
    return found
