"""What goes wrong with stored bytes: codes, scales, zero points, rows.

Each function takes a weight, what it could be confused with and a strength, and gives
the weight with the defect; `Unfit` where there is nothing to change.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np

from harness.defects.stored.types import Neighbours, StoredWeight, floats
from harness.defects.types import Unfit

Array = np.ndarray[Any, np.dtype[Any]]


def _scales(w: StoredWeight, least: int = 1) -> Array:
    if w.scales is None:
        raise Unfit("the file holds no scales of it")
    if w.scales.size < least:
        raise Unfit(f"fewer than {least} scales")
    return w.scales


def _with_scales(w: StoredWeight, scales: Array) -> StoredWeight:
    assert w.scales is not None  # sanity check
    return dataclasses.replace(w, scales=scales.astype(w.scales.dtype))


def _other(near: Neighbours) -> StoredWeight:
    if near.other is None:
        raise Unfit("no other tensor has this shape and type")
    return near.other


def _four_bit(w: StoredWeight) -> None:
    if w.bits != 4:
        raise Unfit(f"codes have {w.bits} bits, not 4")


def _quantized(w: StoredWeight) -> None:
    if w.bits == 16:
        raise Unfit("16-bit numbers are no codes")


def nibbles(w: StoredWeight, near: Neighbours, strength: float) -> StoredWeight:  # noqa: ARG001
    """A byte's two codes change places."""
    _four_bit(w)
    return dataclasses.replace(w, codes=(w.codes << 4) | (w.codes >> 4))


def interleaved(w: StoredWeight, near: Neighbours, strength: float) -> StoredWeight:  # noqa: ARG001
    """Bytes in the order that another kernel wants: even ones first."""
    _quantized(w)
    length = w.codes.shape[1]
    if length < 4:
        raise Unfit("fewer than four bytes a row")
    order = np.concatenate([np.arange(0, length, 2), np.arange(1, length, 2)])
    return dataclasses.replace(w, codes=w.codes[:, order])


def _hit(w: StoredWeight, near: Neighbours, shape: Any, share: float) -> Array:
    """A share of the entries, one at least."""
    mask: Array = np.zeros(int(np.prod(shape)), bool)
    count = min(mask.size, max(1, round(share * mask.size)))
    mask[near.rng(w).permutation(mask.size)[:count]] = True
    return mask.reshape(shape)


def off_by_one(w: StoredWeight, near: Neighbours, strength: float) -> StoredWeight:
    """The next code up; the largest stays."""
    _quantized(w)
    codes = w.unpacked()
    hit = _hit(w, near, codes.shape, strength)
    top = 2**w.bits - 1
    if w.meaning in ("offset", "unsigned"):
        return w.with_codes(np.where(hit & (codes < top), codes + 1, codes))
    half = 2 ** (w.bits - 1)
    if w.meaning == "signed":
        return w.with_codes(
            np.where(hit & (codes != half - 1), (codes + 1) & top, codes)
        )
    # The largest magnitude of FP8 is next to NaN: one below it stays as well.
    size = codes & (half - 1)
    moved = hit & (size < half - 2)
    return w.with_codes(np.where(moved, codes + 1, codes))


def signs_flipped(w: StoredWeight, near: Neighbours, strength: float) -> StoredWeight:
    """The sign of some codes."""
    if w.meaning == "unsigned":
        raise Unfit("codes have no sign")
    codes = w.unpacked()
    hit = _hit(w, near, codes.shape, strength)
    top, half = 2**w.bits - 1, 2 ** (w.bits - 1)
    if w.meaning == "float":
        flipped = codes ^ half
    elif w.meaning == "signed":
        flipped = np.where(codes == half, codes, (-codes.astype(np.int32)) & top)
    else:
        flipped = np.where(codes == 0, codes, (2 * half - codes.astype(np.int32)) & top)
    return w.with_codes(np.where(hit, flipped, codes))


def offset(w: StoredWeight, near: Neighbours, strength: float) -> StoredWeight:  # noqa: ARG001
    """Written around zero, read around half of the range, or the reverse."""
    if w.meaning not in ("offset", "signed"):
        raise Unfit("codes are not around half of their range")
    return w.with_codes(w.unpacked() ^ (2 ** (w.bits - 1)))


def halved(w: StoredWeight, near: Neighbours, strength: float) -> StoredWeight:
    """Half of some scales."""
    scales = _scales(w)
    hit = _hit(w, near, scales.shape, strength)
    return _with_scales(w, np.where(hit, floats(scales) / 2, floats(scales)))


def swapped(w: StoredWeight, near: Neighbours, strength: float) -> StoredWeight:  # noqa: ARG001
    """Neighbouring scales change places, along K where there are several."""
    scales = _scales(w, 2)
    axis = 1 if scales.shape[1] > 1 else 0
    order = np.arange(scales.shape[axis])
    order[: order.size - order.size % 2] ^= 1
    return _with_scales(w, np.take(scales, order, axis=axis))


def shifted(w: StoredWeight, near: Neighbours, strength: float) -> StoredWeight:  # noqa: ARG001
    """Every scale is the one before, along K where there are several."""
    scales = _scales(w, 2)
    return _with_scales(w, np.roll(scales, 1, axis=1 if scales.shape[1] > 1 else 0))


def transposed(w: StoredWeight, near: Neighbours, strength: float) -> StoredWeight:  # noqa: ARG001
    """Written column by column, read row by row."""
    scales = _scales(w, 4)
    if min(scales.shape) < 2:
        raise Unfit("scales lie along one axis")
    return _with_scales(w, scales.T.reshape(scales.shape))


def of_other(w: StoredWeight, near: Neighbours, strength: float) -> StoredWeight:  # noqa: ARG001
    """Another tensor's scales."""
    _scales(w)
    other = _other(near).scales
    assert other is not None  # sanity check
    return _with_scales(w, other)


def scales_one(w: StoredWeight, near: Neighbours, strength: float) -> StoredWeight:  # noqa: ARG001
    """All scales are one."""
    return _with_scales(w, np.ones_like(floats(_scales(w))))


def scales_nan(w: StoredWeight, near: Neighbours, strength: float) -> StoredWeight:
    """Some scales are NaN."""
    scales = floats(_scales(w))
    hit = _hit(w, near, scales.shape, strength)
    return _with_scales(w, np.where(hit, np.float32(np.nan), scales))


def powers_of_two(w: StoredWeight, near: Neighbours, strength: float) -> StoredWeight:  # noqa: ARG001
    """Rounded up to a power of two, the codes left as they were."""
    scales = floats(_scales(w))
    return _with_scales(w, np.where(scales > 0, 2 ** np.ceil(np.log2(scales)), scales))


def reciprocal(w: StoredWeight, near: Neighbours, strength: float) -> StoredWeight:  # noqa: ARG001
    """A divisor where a factor is read."""
    if w.tensor_scale is not None:
        return dataclasses.replace(w, tensor_scale=(1 / w.tensor_scale))
    scales = floats(_scales(w))
    return _with_scales(w, np.where(scales > 0, 1 / scales, scales))


def tensor_one(w: StoredWeight, near: Neighbours, strength: float) -> StoredWeight:  # noqa: ARG001
    """The tensor's own scale is one."""
    if w.tensor_scale is None:
        raise Unfit("no scale of the whole tensor")
    return dataclasses.replace(w, tensor_scale=np.ones_like(w.tensor_scale))


def tensor_other(w: StoredWeight, near: Neighbours, strength: float) -> StoredWeight:  # noqa: ARG001
    """The tensor's own scale is another tensor's."""
    if w.tensor_scale is None:
        raise Unfit("no scale of the whole tensor")
    return dataclasses.replace(w, tensor_scale=_other(near).tensor_scale)


def _zeros(w: StoredWeight) -> Array:
    if w.zeros is None:
        raise Unfit("the file holds no zero points")
    return w.zeros


def no_zeros(w: StoredWeight, near: Neighbours, strength: float) -> StoredWeight:  # noqa: ARG001
    """Zero points that are zero."""
    return dataclasses.replace(w, zeros=np.zeros_like(_zeros(w)))


def zeros_up(w: StoredWeight, near: Neighbours, strength: float) -> StoredWeight:  # noqa: ARG001
    """One more, as AutoGPTQ's first format stores one less."""
    zeros = _zeros(w)
    if zeros.dtype == np.uint8:
        return dataclasses.replace(w, zeros=(zeros + 1) & (2**w.bits - 1))
    if zeros.dtype.kind == "i":
        return dataclasses.replace(w, zeros=zeros + 1)
    # A minimum: one step of its group.
    step = floats(_scales(w)).reshape(zeros.shape)
    return dataclasses.replace(w, zeros=(floats(zeros) + step).astype(zeros.dtype))


def _each(w: StoredWeight, rows: Callable[[Array], Array]) -> StoredWeight:
    """Every part's rows reordered alike."""

    def of(array: Array | None) -> Array | None:
        fits = array is not None and array.shape[0] == w.rows
        return rows(array) if fits and array is not None else array

    return dataclasses.replace(
        w, codes=rows(w.codes), scales=of(w.scales), zeros=of(w.zeros)
    )


def rows_shifted(w: StoredWeight, near: Neighbours, strength: float) -> StoredWeight:  # noqa: ARG001
    """Every row is the one before, scales and zero points with it."""
    if w.rows < 2:
        raise Unfit("one row")
    return _each(w, lambda a: np.roll(a, 1, axis=0))


def rotary(w: StoredWeight, near: Neighbours, strength: float) -> StoredWeight:  # noqa: ARG001
    """Halves of a head where pairs are read: the permutation for RoPE is missing."""
    head = near.head
    if head < 4 or w.rows % head:
        raise Unfit("it makes neither queries nor keys of heads that are known")
    inner = np.arange(head).reshape(2, head // 2).T.reshape(-1)
    order = (np.arange(0, w.rows, head)[:, None] + inner).reshape(-1)
    return _each(w, lambda a: a[order])


def stale(w: StoredWeight, near: Neighbours, strength: float) -> StoredWeight:  # noqa: ARG001
    """Another tensor's bytes."""
    other = _other(near)
    return dataclasses.replace(other, name=w.name)


def unwritten(w: StoredWeight, near: Neighbours, strength: float) -> StoredWeight:  # noqa: ARG001
    """The last rows are the zeros of a buffer that nobody filled."""
    count = min(w.rows, max(1, round(strength * w.rows)))
    codes = w.codes.copy()
    codes[w.rows - count :] = 0
    return dataclasses.replace(w, codes=codes)
