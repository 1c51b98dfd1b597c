"""Candidate causes in the weight: other codes, other scales, another layout.

Written from what formats and layouts allow to go wrong, apart from the defects that are
planted: neither knows the other.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import Any

import ml_dtypes
import numpy as np

from harness.diagnose.observation import Observation
from harness.numerics import FORMATS, Quantized, decode, find_format, quantize
from harness.numerics.swizzle import swizzle_scales
from harness.schemes.apply import quantize_weight

Array = np.ndarray[Any, np.dtype[Any]]
#: A cause's name, its detail, and the float32 weight that the operator would have.
Named = tuple[str, str, Array]


def candidates(seen: Observation) -> Iterator[Named]:
    """Every weight that a known mistake would make of this operator's."""
    if seen.stored is None:
        yield from _layouts(seen.full_weight)
        return
    q = seen.stored
    yield "not quantized", "the weight is not quantized", seen.full_weight
    yield from _readings(q)
    yield from _roundings(seen, q)
    yield from _recomputed(seen, q)
    yield from _scales(q)
    yield from _of_others(seen, q)
    yield from _layouts(seen.weight)
    yield from _codes_moved(q)


def _decoded(q: Quantized, codes: Array | None = None, scales: Any = None) -> Array:
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


def _readings(q: Quantized) -> Iterator[Named]:
    """The same bytes taken for something else."""
    own = FORMATS[q.element]
    by = q.expanded_scales()
    for other in FORMATS.values():
        same_size = other.bits == own.bits and other.kind not in ("block", "scale")
        if same_size and other.name != own.name:
            values = decode(q.codes, other.name).astype(np.float32)
            with np.errstate(all="ignore"):
                yield (
                    "codes read as another format",
                    f"{own.name} codes read as {other.name}",
                    values * by,
                )
    top = (1 << own.bits) - 1
    half = 1 << (own.bits - 1)
    yield "signs flipped", "every value has the other sign", -q.dequantize()
    yield "signs lost", "the sign bit is ignored", np.abs(q.dequantize())
    if own.bits == 4:
        yield (
            "code table reversed",
            "the table of codes runs the other way",
            _decoded(q, top - q.codes),
        )
        yield (
            "code table reversed",
            "the halves of the table of codes change places",
            _decoded(q, q.codes ^ half),
        )
        yield (
            "codes of a byte swapped",
            "the two 4-bit codes of a byte change places",
            _decoded(q, _pairs_swapped(q.codes, 1)),
        )
    if own.kind == "int":
        for step in (1, -1, half):
            yield (
                "zero point wrong",
                f"every code is off by {step}",
                _decoded_signed(q, step),
            )


def _decoded_signed(q: Quantized, step: int) -> Array:
    """Codes moved by a step, with and without the range that codes have: clipped."""
    bits = FORMATS[q.element].bits
    top = 2 ** (bits - 1) - 1
    signed = q.codes.astype(np.int32)
    signed = np.where(signed > top, signed - 2**bits, signed)
    clipped = np.clip(signed + step, -top - 1, top).astype(np.float32)
    found: Array = clipped * q.expanded_scales()
    return found


def _pairs_swapped(codes: Array, axis: int) -> Array:
    length = codes.shape[axis]
    order = np.arange(length)
    order[: length - length % 2] ^= 1
    return np.take(codes, order, axis=axis)


def _again(
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


_MODES = {
    "toward_zero": "truncated instead of rounded to nearest",
    "nearest_away": "ties away from zero instead of to even",
    "down": "rounded down instead of to nearest",
    "up": "rounded up instead of to nearest",
    "away": "rounded away from zero instead of to nearest",
}


def _roundings(seen: Observation, q: Quantized) -> Iterator[Named]:
    weight = seen.full_weight
    for mode, words in _MODES.items():
        yield "rounding mode", f"weight {words}", _again(q, weight, rounding=mode)
    by = q.expanded_scales()
    for name, dtype in (("bfloat16", ml_dtypes.bfloat16), ("float16", np.float16)):
        with np.errstate(all="ignore"):
            ratio = (weight / by).astype(dtype).astype(np.float32) * by
            yield (
                "rounded twice",
                f"weight divided by its scale is rounded to {name} first",
                _again(q, ratio),
            )
            early = weight.astype(dtype).astype(np.float32)
        yield "rounded twice", f"weight rounded to {name} first", _again(q, early)
    values = decode(q.codes, q.element)
    table = np.abs(FORMATS[q.element].decoded)
    finite = table[np.isfinite(table) & (table > 0)]
    if FORMATS[q.element].kind == "float" and finite.size:
        for exponent in range(-8, 0):
            small = 2.0**exponent
            if small > finite.min():
                flushed = np.where(np.abs(values) < small, 0, values)
                yield (
                    "subnormals flushed",
                    f"elements below 2**{exponent} are zero",
                    flushed.astype(np.float32) * by,
                )


def _amax(q: Quantized, weight: Array, *, absolute: bool = True) -> Array:
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


def _recomputed(seen: Observation, q: Quantized) -> Iterator[Named]:
    """Scales computed in another way, and codes made with them."""
    weight = seen.full_weight
    fmt = find_format(q.format)
    element = FORMATS[q.element]
    amax = _amax(q, weight)
    if fmt.scale == "fp8_e8m0":
        for delta in (-1, 1, -2, 2, 3, 6, 8):
            yield (
                "scale computed wrongly",
                f"block exponents off by {delta:+d}, codes made with them",
                _again(q, weight, q.scales * 2.0**delta),
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
            _again(q, weight, np.exp2(np.floor(np.log2(largest)))),
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
                _again(q, weight, q.scales * np.float32(ratio)),
            )
        for name, dtype in (("bfloat16", ml_dtypes.bfloat16), ("float16", np.float16)):
            with np.errstate(all="ignore"):
                rounded = q.scales.astype(dtype).astype(np.float32)
            if np.isfinite(rounded).all() and (rounded > 0).all():
                yield (
                    "scale of low precision",
                    f"scales rounded to {name}, codes made with them",
                    _again(q, weight, rounded),
                )
                yield (
                    "scale of low precision",
                    f"scales rounded to {name} after the codes were made",
                    _decoded(q, scales=rounded),
                )
        power = np.exp2(np.ceil(np.log2(np.maximum(q.scales, 1e-38))))
        yield (
            "scale computed wrongly",
            "scales rounded up to powers of two, codes made with them",
            _again(q, weight, power),
        )
    signed = _amax(q, weight, absolute=False)
    share = np.where((signed > 0) & (amax > 0), signed / np.where(amax > 0, amax, 1), 1)
    scales = q.scales * share
    if fmt.scale == "fp8_e8m0":
        scales = np.exp2(np.floor(np.log2(scales)))
    yield (
        "scale from values without magnitude",
        "scales from the largest value, not the largest magnitude",
        _again(q, weight, scales),
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
        found = quantize_weight(seen.operator, scheme).dequantize()
        yield "scale over another group", f"scales over {words}", found


def _scales(q: Quantized) -> Iterator[Named]:
    """The right codes under the wrong scales."""
    scales = np.asarray(q.scales)
    yield "scale missing", "1 stands for every scale", _decoded(q, scales=1.0)
    with np.errstate(all="ignore"):
        yield "scale inverted", "scales are reciprocals", _decoded(q, scales=1 / scales)
        yield (
            "scale applied twice",
            "scales are applied twice",
            _decoded(q, scales=scales**2),
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
                    _decoded(q, scales=power),
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
            _decoded(q, scales=raw),
        )
        for other in ("fp8_e5m2", "fp8_e4m3", "fp8_e4m3fnuz", "fp8_e8m0"):
            if other != find_format(q.format).scale:
                with np.errstate(all="ignore"):
                    values = decode(np.asarray(q.scale_codes), other)
                yield (
                    "scale bytes misread",
                    f"scale bytes read as {other}",
                    _decoded(q, scales=values),
                )
    if find_format(q.format).scale == "fp8_e4m3":
        yield (
            "subnormal scales flushed",
            "block scales below 2**-6 are zero",
            _decoded(q, scales=np.where(scales < 2.0**-6, 0, scales)),
        )
    if scales.size > 1:
        yield (
            "one scale for all",
            "the first scale stands for all",
            _decoded(q, scales=scales.reshape(-1)[0]),
        )
        yield (
            "one scale for all",
            "the last scale stands for all",
            _decoded(q, scales=scales.reshape(-1)[-1]),
        )
        yield (
            "one scale for all",
            "the largest scale stands for all",
            _decoded(q, scales=scales.max()),
        )
    zeros = _amax(q, np.abs(q.dequantize())) == 0
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
                _decoded(q, scales=np.roll(scales, step, axis=0)),
            )
        index = np.arange(scales.shape[0])
        for size in (2, 4, 8, 16, 32, 64, 128):
            if size < scales.shape[0]:
                yield (
                    "scales stuck",
                    f"of every {size} output channels the first one's scale",
                    _decoded(q, scales=scales[index // size * size]),
                )
        half = scales.shape[0] // 2
        first = scales.copy()
        first[half : 2 * half] = first[:half]
        yield (
            "scales of another shard",
            "the second half of the channels has the first half's scales",
            _decoded(q, scales=first),
        )
        second = np.concatenate([scales[half:], scales[:half]])
        yield (
            "scales of another shard",
            "the halves of the channels have each other's scales",
            _decoded(q, scales=second),
        )
        yield (
            "scales permuted",
            "scales in reverse order of output channels",
            _decoded(q, scales=scales[::-1]),
        )
    if scales.ndim < 2 or scales.shape[1] < 2:
        return
    for step in (1, -1, 2, -2, 4, -4):
        yield (
            "scales shifted along K",
            f"block scales shifted by {step} block{'s' * (abs(step) > 1)} along K",
            _decoded(q, scales=np.roll(scales, step, axis=1)),
        )
        moved = np.take(
            scales,
            np.clip(np.arange(scales.shape[1]) - step, 0, scales.shape[1] - 1),
            1,
        )
        yield (
            "scales shifted along K",
            f"block scales shifted by {step} along K, the edge repeated",
            _decoded(q, scales=moved),
        )
    flat = np.roll(scales.reshape(-1), 1).reshape(scales.shape)
    yield (
        "scales shifted along K",
        "block scales shifted by one in memory",
        _decoded(q, scales=flat),
    )
    column = np.arange(scales.shape[1])
    for size in (2, 4, 8, 16, scales.shape[1]):
        if size <= scales.shape[1]:
            yield (
                "scales stuck",
                f"of every {size} blocks along K the first one's scale",
                _decoded(q, scales=scales[:, column // size * size]),
            )
    yield (
        "scales permuted",
        "block scales in reverse order along K",
        _decoded(q, scales=scales[:, ::-1]),
    )
    if scales.ndim == 2:
        yield (
            "scales transposed",
            "the grid of scales is read in the other order",
            _decoded(q, scales=scales.T.reshape(scales.shape)),
        )
        turned = scales.reshape(scales.shape[::-1]).T
        yield (
            "scales transposed",
            "the grid of scales was written in the other order",
            _decoded(q, scales=turned),
        )
        yield from _swizzles(q, scales)


def _swizzles(q: Quantized, scales: Array) -> Iterator[Named]:
    rows, columns = scales.shape
    order = _swizzle_order(rows, columns)
    flat = scales.reshape(-1)
    yield (
        "scales swizzled",
        "scales written in tiles of 128 x 4, read row by row",
        _decoded(q, scales=flat[order[: flat.size]].reshape(scales.shape)),
    )
    if rows % 128 == 0 and columns % 4 == 0:
        inverse = np.empty_like(order)
        inverse[order] = np.arange(order.size)
        yield (
            "scales swizzled",
            "scales written row by row, read in tiles of 128 x 4",
            _decoded(q, scales=flat[inverse].reshape(scales.shape)),
        )


def _swizzle_order(rows: int, columns: int) -> Array:
    index = np.arange(rows * columns).reshape(rows, columns)
    found = np.zeros(swizzle_scales(index.astype(np.uint8)).shape, np.int64)
    for byte in range(4):
        plane = swizzle_scales(((index >> (8 * byte)) & 255).astype(np.uint8))
        found |= plane.astype(np.int64) << (8 * byte)
    return found


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
                _decoded(q, scales=entry.scales),
            )
        if entry.global_scale != q.global_scale:
            swapped = dataclasses.replace(q, global_scale=entry.global_scale)
            yield (
                "another operator's tensor scale",
                f"the tensor's scale is that of {other.name}",
                swapped.dequantize(),
            )


def _layouts(weight: Array) -> Iterator[Named]:
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


def _codes_moved(q: Quantized) -> Iterator[Named]:
    """Right scales over codes in another order."""
    for words, order in _orders(q.codes.shape[1]):
        yield (
            "columns permuted along K",
            f"codes: {words}",
            _decoded(q, q.codes[:, order]),
        )
    for step in (1, -1):
        yield (
            "columns shifted along K",
            f"codes shifted by {step} along K",
            _decoded(q, np.roll(q.codes, step, axis=1)),
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
