"""A scheme's weight as a file would hold it, and back: for targets without a file."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np

from harness.defects.stored.types import (
    Meaning,
    Neighbours,
    StoredWeight,
    changed,
    floats,
    stored_type,
)
from harness.defects.types import Defect, Site
from harness.numerics import FORMATS, Quantized, find_format
from harness.schemes.apply import quantize_weight

Array = np.ndarray[Any, np.dtype[Any]]


def planted_quantized(site: Site, defect: Defect, strength: float) -> Quantized:
    """What is read from a file whose bytes have the defect.

    Raises:
        Unfit: there is nothing to change.
    """
    right = quantize_weight(site.operator, site.scheme)
    other = None
    if site.other is not None:
        found = quantize_weight(site.other, site.scheme)
        if found.scales.shape == right.scales.shape:
            other = to_stored(found, site.other.name)
    near = Neighbours(other=other, seed=site.seed)
    wrong = changed(defect, to_stored(right, site.operator.name), near, strength)
    return from_stored(wrong, right)


def to_stored(quantized: Quantized, name: str) -> StoredWeight:
    """Bytes of codes (two of 4 bits a byte) and scales, a row an output channel."""
    fmt = find_format(quantized.format)
    element = FORMATS[quantized.element]
    codes = _flat(np.asarray(quantized.codes))
    if element.bits == 4:
        codes = np.pad(codes, ((0, 0), (0, codes.shape[1] % 2)))
    meaning: Meaning = "signed" if element.kind == "int" else "float"
    scales = _flat(np.asarray(quantized.scales, np.float32))
    tensor = None
    if quantized.global_scale != 1.0:
        tensor = np.array([quantized.global_scale], np.float32)
    empty = np.zeros((codes.shape[0], codes.shape[1] // 2), np.uint8)
    weight = StoredWeight(
        name=name,
        codes=empty if element.bits == 4 else codes,
        bits=element.bits,
        meaning=meaning,
        scales=scales.astype(stored_type(fmt.scale or "float32")),
        tensor_scale=tensor,
    )
    return weight.with_codes(codes)


def from_stored(weight: StoredWeight, like: Quantized) -> Quantized:
    """The quantized tensor that those bytes are read as."""
    codes = np.asarray(like.codes)
    length = int(np.prod(codes.shape[1:]))
    assert weight.scales is not None  # sanity check
    scales = np.asarray(like.scales)
    tensor = like.global_scale
    if weight.tensor_scale is not None:
        tensor = float(weight.tensor_scale.reshape(-1)[0])
    return dataclasses.replace(
        like,
        codes=_shaped(weight.unpacked()[:, :length], codes.shape).astype(codes.dtype),
        scales=_shaped(floats(weight.scales), scales.shape),
        global_scale=tensor,
    )


def _flat(array: Array) -> Array:
    """(rows, rest) with the input channels last, where blocks lie."""
    if array.ndim < 2:
        return array.reshape(-1, 1) if array.ndim else array.reshape(1, 1)
    return np.ascontiguousarray(np.moveaxis(array, 1, -1)).reshape(array.shape[0], -1)


def _shaped(flat: Array, shape: tuple[int, ...]) -> Array:
    if len(shape) < 3:
        return flat.reshape(shape)
    turned = (shape[0], *shape[2:], shape[1])
    return np.ascontiguousarray(np.moveaxis(flat.reshape(turned), -1, 1))
