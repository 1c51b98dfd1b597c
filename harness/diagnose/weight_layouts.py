"""Candidate causes in a weight's layout: rows, columns and codes in another order."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from harness.diagnose.weight_codes import Named, decoded
from harness.numerics import Quantized

Array = np.ndarray[Any, np.dtype[Any]]


def layouts(weight: Array) -> Iterator[Named]:
    """The decoded weight in another order."""
    out, length = weight.shape[:2]
    if weight.ndim == 2 and out == length:
        yield "weight transposed", "the weight is read in the other order", weight.T
    if weight.ndim == 2 and out != length:
        yield (
            "weight transposed",
            "the weight's memory is read in the other order",
            weight.T.reshape(weight.shape),
        )
    for step in (1, -1):
        if out > 1:
            yield (
                "output channels shifted",
                f"output channels shifted by {step}",
                np.roll(weight, step, axis=0),
            )
        yield (
            "columns shifted along K",
            f"input channels shifted by {step}",
            np.roll(weight, step, axis=1),
        )
    for words, order in _orders(length):
        yield "columns permuted along K", words, weight[:, order]
    for words, order in _orders(out):
        yield "output channels permuted", words, weight[order]
    for count in (1, 2, 4, 8, 16, 32, 64, 128, length // 2):
        if 0 < count < length:
            cut = weight.copy()
            cut[:, length - count :] = 0
            yield "tail of K dropped", f"the last {count} input channels", cut
            first = weight.copy()
            first[:, :count] = 0
            yield "tail of K dropped", f"the first {count} input channels", first
            for words, part in (
                ("last", slice(length - count, length)),
                ("first", slice(0, count)),
            ):
                twice = weight.copy()
                twice[:, part] *= 2
                yield (
                    "tail of K added twice",
                    f"the {words} {count} input channels are added twice",
                    twice,
                )


def codes_moved(q: Quantized) -> Iterator[Named]:
    """Right scales over codes in another order."""
    for words, order in _orders(q.codes.shape[1]):
        yield (
            "columns permuted along K",
            f"codes: {words}",
            decoded(q, q.codes[:, order]),
        )
    for step in (1, -1):
        yield (
            "columns shifted along K",
            f"codes shifted by {step} along K",
            decoded(q, np.roll(q.codes, step, axis=1)),
        )


def _orders(length: int) -> Iterator[tuple[str, Array]]:
    index = np.arange(length)
    if length < 4:
        return
    yield "even ones first", np.concatenate([index[0::2], index[1::2]])
    if length % 2 == 0:
        yield "halves interleaved", index.reshape(2, -1).T.reshape(-1)
        yield "neighbours swapped", index ^ 1
        yield "halves swapped", np.roll(index, length // 2)
    yield "in reverse", index[::-1]
    for size in (8, 16, 32, 64):
        if length % size == 0 and length > size:
            yield (
                f"transposed in tiles of {size}",
                index.reshape(-1, size).T.reshape(-1),
            )
            pairs = index.reshape(-1, 2, size // 2).swapaxes(1, 2).reshape(-1)
            yield f"shuffled in groups of {size}", pairs
            reverse = index.reshape(-1, size)[:, ::-1].reshape(-1)
            yield f"in reverse in groups of {size}", reverse
