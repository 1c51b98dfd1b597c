"""Candidate causes in a weight's scales: computed, read or placed otherwise."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import Any

import ml_dtypes
import numpy as np

from harness.diagnose.observation import Observation
from harness.diagnose.weight_codes import Named, again, decoded, group_amax
from harness.errors import NumericsError
from harness.numerics import FORMATS, Quantized, decode, find_format, quantize
from harness.numerics.swizzle import swizzle_scales
from harness.schemes.apply import quantize_weight

Array = np.ndarray[Any, np.dtype[Any]]


def remade_scales(seen: Observation, q: Quantized) -> Iterator[Named]:
    """Scales computed in another way, and codes made with them."""
    weight = seen.full_weight
    fmt = find_format(q.format)
    element = FORMATS[q.element]
    amax = group_amax(q, weight)
    if fmt.scale == "fp8_e8m0":
        for delta in (-1, 1, -2, 2, 3, 6, 8):
            yield (
                "scale computed wrongly",
                f"block exponents off by {delta:+d}, codes made with them",
                again(q, weight, q.scales * 2.0**delta),
            )
        for rule in ("ceil", "rceil", "even", "floor"):
            if rule != q.rule:
                other = quantize(
                    weight, q.format, axis=q.axis, block=q.block or None, rule=rule
                )
                yield (
                    "scale computed wrongly",
                    f"block exponents by the rule {rule!r} instead of {q.rule!r}",
                    other.dequantize(),
                )
        largest = np.where(amax > 0, amax / element.max, q.scales)
        yield (
            "scale computed wrongly",
            "block exponents are floor(log2(amax / largest value))",
            again(q, weight, np.exp2(np.floor(np.log2(largest)))),
        )
    else:
        ratios = {
            "240 instead of 448": 448 / 240,
            "224 instead of 448": 2.0,
            "256 instead of 448": 448 / 256,
            "57344 instead of 448": 448 / 57344,
            "448 instead of 240": 240 / 448,
            "a code less": 1 + 1 / max(element.max - 1, 1),
            "half a code more": element.max / (element.max + 0.5),
            "a code more": element.max / (element.max + 1),
            "half": 2.0,
            "double": 0.5,
        }
        for words, ratio in ratios.items():
            yield (
                "scale computed wrongly",
                f"scales made for a largest value of {words}, codes made with them",
                again(q, weight, q.scales * np.float32(ratio)),
            )
        for name, dtype in (("bfloat16", ml_dtypes.bfloat16), ("float16", np.float16)):
            with np.errstate(all="ignore"):
                rounded = q.scales.astype(dtype).astype(np.float32)
            if np.isfinite(rounded).all() and (rounded > 0).all():
                yield (
                    "scale of low precision",
                    f"scales rounded to {name}, codes made with them",
                    again(q, weight, rounded),
                )
                yield (
                    "scale of low precision",
                    f"scales rounded to {name} after the codes were made",
                    decoded(q, scales=rounded),
                )
        power = np.exp2(np.ceil(np.log2(np.maximum(q.scales, 1e-38))))
        yield (
            "scale computed wrongly",
            "scales rounded up to powers of two, codes made with them",
            again(q, weight, power),
        )
    signed = group_amax(q, weight, absolute=False)
    share = np.where((signed > 0) & (amax > 0), signed / np.where(amax > 0, amax, 1), 1)
    scales = q.scales * share
    if fmt.scale == "fp8_e8m0":
        scales = np.exp2(np.floor(np.log2(scales)))
    yield (
        "scale from values without magnitude",
        "scales from the largest value, not the largest magnitude",
        again(q, weight, scales),
    )
    yield from _other_groups(seen, q)
    for name in _formats_for(q):
        kind = find_format(name).kind
        axis, block = q.axis, q.block or None
        if kind == "block" and not isinstance(axis, int):
            axis, block = 1, None
        elif kind == "block":
            block = None
        yield (
            "another format",
            f"stored as {name} instead of {q.format}",
            quantize(weight, name, axis=axis, block=block).dequantize(),
        )


def _formats_for(q: Quantized) -> list[str]:
    """Formats that could stand in for this one."""
    names = []
    for fmt in FORMATS.values():
        if fmt.kind == "scale" or fmt.name == q.format or fmt.bits > 8:
            continue
        names.append(fmt.name)
    return names


def _other_groups(seen: Observation, q: Quantized) -> Iterator[Named]:
    """Scales of groups of another size."""
    assert seen.scheme.weights is not None  # sanity check
    tensor = seen.scheme.weights
    blocks: list[tuple[str, Any]] = []
    if tensor.granularity == "block" and isinstance(q.block, int):
        blocks = [
            (
                f"blocks of {q.block * factor // divisor} instead of {q.block}",
                dataclasses.replace(tensor, block=q.block * factor // divisor),
            )
            for factor, divisor in ((2, 1), (4, 1), (8, 1), (1, 2))
            if q.block * factor // divisor >= 2
        ]
    elif tensor.granularity != "tensor":
        blocks = [
            (
                "one scale for the whole weight",
                dataclasses.replace(tensor, granularity="tensor"),
            )
        ]
    else:
        blocks = [
            (
                "one scale a channel",
                dataclasses.replace(tensor, granularity="channel"),
            )
        ]
    for words, other in blocks:
        scheme = dataclasses.replace(seen.scheme, weights=other)
        try:
            found = quantize_weight(seen.operator, scheme).dequantize()
        except NumericsError:
            # Rows that are not whole blocks of that size, where a type needs them.
            continue
        yield "scale over another group", f"scales over {words}", found


def wrong_scales(q: Quantized) -> Iterator[Named]:
    """The right codes under the wrong scales."""
    scales = np.asarray(q.scales)
    yield "scale missing", "1 stands for every scale", decoded(q, scales=1.0)
    with np.errstate(all="ignore"):
        yield "scale inverted", "scales are reciprocals", decoded(q, scales=1 / scales)
        yield (
            "scale applied twice",
            "scales are applied twice",
            decoded(q, scales=scales**2),
        )
        if find_format(q.format).scale != "fp8_e8m0":
            for words, rounded in (
                ("up", np.ceil),
                ("down", np.floor),
                ("to the nearest", np.round),
            ):
                power = np.exp2(rounded(np.log2(np.abs(scales))))
                yield (
                    "scale rounded to a power of two",
                    f"scales rounded {words} to powers of two, codes as they were",
                    decoded(q, scales=power),
                )
    if q.global_scale != 1.0:
        yield (
            "tensor scale missing",
            "the whole tensor's scale is left out",
            dataclasses.replace(q, global_scale=1.0).dequantize(),
        )
        inverse = dataclasses.replace(q, global_scale=1 / q.global_scale)
        yield "scale inverted", "the tensor's scale inverted", inverse.dequantize()
    if find_format(q.format).scale:
        raw = np.asarray(q.scale_codes).astype(np.float32)
        yield (
            "scale bytes misread",
            "the byte of a scale is taken for its value",
            decoded(q, scales=raw),
        )
        for other in ("fp8_e5m2", "fp8_e4m3", "fp8_e4m3fnuz", "fp8_e8m0"):
            if other != find_format(q.format).scale:
                with np.errstate(all="ignore"):
                    values = decode(np.asarray(q.scale_codes), other)
                yield (
                    "scale bytes misread",
                    f"scale bytes read as {other}",
                    decoded(q, scales=values),
                )
    if find_format(q.format).scale == "fp8_e4m3":
        yield (
            "subnormal scales flushed",
            "block scales below 2**-6 are zero",
            decoded(q, scales=np.where(scales < 2.0**-6, 0, scales)),
        )
    if scales.size > 1:
        yield (
            "one scale for all",
            "the first scale stands for all",
            decoded(q, scales=scales.reshape(-1)[0]),
        )
        yield (
            "one scale for all",
            "the last scale stands for all",
            decoded(q, scales=scales.reshape(-1)[-1]),
        )
        yield (
            "one scale for all",
            "the largest scale stands for all",
            decoded(q, scales=scales.max()),
        )
    zeros = group_amax(q, np.abs(q.dequantize())) == 0
    if zeros.any():
        hit = q.grid.expand(zeros.astype(np.float32)) > 0
        yield (
            "zero blocks divided by zero",
            "groups of zeros decode to NaN",
            np.where(hit, np.nan, q.dequantize()),
        )
    yield from _scale_places(q, scales)


def _scale_places(q: Quantized, scales: Array) -> Iterator[Named]:
    """Right scales in the wrong places."""
    if scales.ndim and scales.shape[0] > 1:
        for step in (1, -1, 2, -2, 8, -8, 16, -16):
            yield (
                "scales shifted along N",
                f"scales shifted by {step} output channels",
                decoded(q, scales=np.roll(scales, step, axis=0)),
            )
        index = np.arange(scales.shape[0])
        for size in (2, 4, 8, 16, 32, 64, 128):
            if size < scales.shape[0]:
                yield (
                    "scales stuck",
                    f"of every {size} output channels the first one's scale",
                    decoded(q, scales=scales[index // size * size]),
                )
        half = scales.shape[0] // 2
        first = scales.copy()
        first[half : 2 * half] = first[:half]
        yield (
            "scales of another shard",
            "the second half of the channels has the first half's scales",
            decoded(q, scales=first),
        )
        second = np.concatenate([scales[half:], scales[:half]])
        yield (
            "scales of another shard",
            "the halves of the channels have each other's scales",
            decoded(q, scales=second),
        )
        yield (
            "scales permuted",
            "scales in reverse order of output channels",
            decoded(q, scales=scales[::-1]),
        )
    if scales.ndim < 2 or scales.shape[1] < 2:
        return
    for step in (1, -1, 2, -2, 4, -4):
        yield (
            "scales shifted along K",
            f"block scales shifted by {step} block{'s' * (abs(step) > 1)} along K",
            decoded(q, scales=np.roll(scales, step, axis=1)),
        )
        moved = np.take(
            scales,
            np.clip(np.arange(scales.shape[1]) - step, 0, scales.shape[1] - 1),
            1,
        )
        yield (
            "scales shifted along K",
            f"block scales shifted by {step} along K, the edge repeated",
            decoded(q, scales=moved),
        )
    flat = np.roll(scales.reshape(-1), 1).reshape(scales.shape)
    yield (
        "scales shifted along K",
        "block scales shifted by one in memory",
        decoded(q, scales=flat),
    )
    column = np.arange(scales.shape[1])
    for size in (2, 4, 8, 16, scales.shape[1]):
        if size <= scales.shape[1]:
            yield (
                "scales stuck",
                f"of every {size} blocks along K the first one's scale",
                decoded(q, scales=scales[:, column // size * size]),
            )
    yield (
        "scales permuted",
        "block scales in reverse order along K",
        decoded(q, scales=scales[:, ::-1]),
    )
    if scales.ndim == 2:
        yield (
            "scales transposed",
            "the grid of scales is read in the other order",
            decoded(q, scales=scales.T.reshape(scales.shape)),
        )
        turned = scales.reshape(scales.shape[::-1]).T
        yield (
            "scales transposed",
            "the grid of scales was written in the other order",
            decoded(q, scales=turned),
        )
        yield from _swizzles(q, scales)


def _swizzles(q: Quantized, scales: Array) -> Iterator[Named]:
    rows, columns = scales.shape
    order = _swizzle_order(rows, columns)
    flat = scales.reshape(-1)
    yield (
        "scales swizzled",
        "scales written in tiles of 128 x 4, read row by row",
        decoded(q, scales=flat[order[: flat.size]].reshape(scales.shape)),
    )
    if rows % 128 == 0 and columns % 4 == 0:
        inverse = np.empty_like(order)
        inverse[order] = np.arange(order.size)
        yield (
            "scales swizzled",
            "scales written row by row, read in tiles of 128 x 4",
            decoded(q, scales=flat[inverse].reshape(scales.shape)),
        )


def _swizzle_order(rows: int, columns: int) -> Array:
    index = np.arange(rows * columns).reshape(rows, columns)
    found = np.zeros(swizzle_scales(index.astype(np.uint8)).shape, np.int64)
    for byte in range(4):
        plane = swizzle_scales(((index >> (8 * byte)) & 255).astype(np.uint8))
        found |= plane.astype(np.int64) << (8 * byte)
    return found
