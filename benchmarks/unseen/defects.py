"""Defects that the catalogue does not hold, each made up once and never tuned to.

A plugin for `quantharness selftest --plugin benchmarks/unseen/defects.py`: what does a
gate do with a kind of mistake that nobody looked for when it was written?
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np

from harness.backends.registry import Registry
from harness.defects import Defect, Unfit
from harness.defects.tensors import (
    input_scheme,
    quantized_like,
    requantized,
    with_codes,
    with_scales,
)
from harness.defects.types import Call, Place, Severity, Site
from harness.numerics import FORMATS, Quantized, decode, encode, find_format, quantize
from harness.schemes.apply import quantize_activation
from harness.schemes.linear_algebra import add_bias, product

Array = np.ndarray[Any, np.dtype[Any]]

#: Side of a tile of a kernel.
_TILE = 16


def _rows(q: Quantized) -> Array:
    """The scales as (channel, blocks), where a channel has several."""
    if q.scales.ndim != 2 or q.scales.shape[1] < 2:
        raise Unfit("a channel has one scale")
    return q.scales.copy()


def _last_block(_: Site, q: Quantized, __: float) -> Quantized:
    scales = _rows(q)
    scales[:, -1] = scales[:, -2]
    return with_scales(q, scales)


def _tiles_rotated(_: Site, q: Quantized, __: float) -> Array:
    decoded: Array = q.dequantize()
    whole = decoded.shape[0] // _TILE * _TILE
    if not whole:
        raise Unfit("fewer channels than a tile")
    tiles = decoded[:whole].reshape(-1, _TILE, *decoded.shape[1:])
    rotated = np.roll(tiles, 1, axis=1).reshape(whole, *decoded.shape[1:])
    return np.concatenate([rotated, decoded[whole:]])


def _lowest_bit(_: Site, q: Quantized, __: float) -> Quantized:
    if FORMATS[q.element].bits != 8:
        raise Unfit("elements have fewer than 8 bits")
    view = q.codes.astype(np.int16)
    return with_codes(q, view - (view & 1))


def _root(_: Site, q: Quantized, __: float) -> Quantized:
    return with_scales(q, np.sqrt(q.scales))


def _squared(_: Site, q: Quantized, __: float) -> Quantized:
    return with_scales(q, np.square(q.scales))


def _scale_in_fp8(_: Site, q: Quantized, __: float) -> Quantized:
    if find_format(q.format).scale:
        raise Unfit("scales have a format of their own")
    unit = q.scales.max() / np.float32(448)
    stored = decode(encode(q.scales / unit, "fp8_e4m3"), "fp8_e4m3")
    return with_scales(q, np.asarray(stored, np.float32) * unit)


def _clipped(site: Site, _: Quantized, __: float) -> Quantized:
    weight = np.asarray(site.operator.weight, np.float32)
    bound = np.quantile(np.abs(weight), 0.99)
    return quantized_like(site, np.clip(weight, -bound, bound))


def _quantized_before(site: Site, q: Quantized, __: float) -> Quantized:
    if q.element == "int8":
        raise Unfit("it is INT8 itself")
    weight = np.asarray(site.operator.weight, np.float32)
    first = quantize(weight.reshape(weight.shape[0], -1), "int8", axis=1)
    return quantized_like(site, first.dequantize().reshape(weight.shape))


def _column_lost(_: Site, q: Quantized, __: float) -> Array:
    decoded: Array = q.dequantize().copy()
    if decoded.shape[1] <= _TILE:
        raise Unfit("K is no longer than a tile")
    decoded[:, _TILE - 1 :: _TILE] = 0
    return decoded


def _two_channels(_: Site, q: Quantized, __: float) -> Array:
    decoded: Array = q.dequantize().copy()
    decoded[[0, -1]] = decoded[[-1, 0]]
    return decoded


def _negative_larger(_: Site, q: Quantized, __: float) -> Array:
    decoded: Array = q.dequantize()
    return np.where(decoded < 0, decoded * np.float32(1.02), decoded)


def _one_sign(_: Site, q: Quantized, __: float) -> Array:
    decoded: Array = q.dequantize().copy()
    place = np.unravel_index(np.argmax(np.abs(decoded)), decoded.shape)
    decoded[place] *= -1
    return decoded


def _decoded(site: Site, x: Array) -> Array:
    input_scheme(site)
    found: Array = quantize_activation(site.operator, x, site.scheme).dequantize()
    return found


def _features(site: Site) -> int:
    return -1 if site.operator.kind == "linear" else 1


def _mean_lost(site: Site, x: Array, _: float) -> Array:
    axis = _features(site)
    return _decoded(site, x - x.mean(axis=axis, keepdims=True))


def _from_rms(site: Site, x: Array, _: float) -> Array:
    if not input_scheme(site).dynamic:
        raise Unfit("scales are calibrated")
    axis = _features(site)
    bound = 2 * np.sqrt(np.square(x).mean(axis=axis, keepdims=True))
    return _decoded(site, np.clip(x, -bound, bound))


def _pairs(site: Site, x: Array, _: float) -> Array:
    decoded = np.moveaxis(_decoded(site, x).copy(), _features(site), 0)
    even = decoded.shape[0] // 2 * 2
    order = np.arange(decoded.shape[0])
    order[:even] ^= 1
    return np.moveaxis(decoded[order], 0, _features(site))


def _unsigned(site: Site, x: Array, _: float) -> Array:
    return _decoded(site, np.maximum(x, 0))


def _codes_of_seven_bits(site: Site, x: Array, _: float) -> Array:
    input_scheme(site)
    q = quantize_activation(site.operator, x, site.scheme)
    if FORMATS[q.element].bits != 8:
        raise Unfit("elements have fewer than 8 bits")
    view = q.codes.astype(np.int16)
    found: Array = with_codes(q, view - (view & 1)).dequantize()
    return found


def _stretched(site: Site, x: Array, _: float) -> Array:
    input_scheme(site)
    q = quantize_activation(site.operator, x, site.scheme)
    wider = requantized(q, x, q.scales * np.float32(1.25))
    found: Array = wider.dequantize()
    return found


def _bias(site: Site) -> Array:
    if site.operator.bias is None or not np.any(site.operator.bias):
        raise Unfit("no bias")
    return np.asarray(site.operator.bias, np.float32)


def _with_bias(site: Site, call: Call, bias: Array) -> Array:
    plain = product(site.operator, call.x, call.weight)
    return add_bias(dataclasses.replace(site.operator, bias=bias), plain)


def _bias_in_int8(site: Site, call: Call, _: float) -> Array:
    bias = _bias(site)
    unit = np.abs(bias).max() / np.float32(127)
    return _with_bias(site, call, np.round(bias / unit) * unit)


def _half_a_bias(site: Site, call: Call, _: float) -> Array:
    bias = _bias(site).copy()
    bias[bias.size // 2 :] = 0
    return _with_bias(site, call, bias)


def _half_of_k(site: Site, call: Call, _: float) -> Array:
    """A kernel that splits K adds the second part's sum twice in the last channels."""
    part = call.weight.copy()
    part[:, : part.shape[1] // 2] = 0
    more = product(site.operator, call.x, part)
    y = call.y.copy()
    channels = np.moveaxis(y, _features(site), 0)
    start = channels.shape[0] - max(1, channels.shape[0] // 4)
    channels[start:] += np.moveaxis(more, _features(site), 0)[start:]
    return y


def _relu(_: Site, call: Call, __: float) -> Array:
    return np.maximum(call.y, 0)


def _absolute(_: Site, call: Call, __: float) -> Array:
    """The sign of the smallest tenth is lost."""
    small = np.abs(call.y) < np.quantile(np.abs(call.y), 0.1)
    return np.where(small, np.abs(call.y), call.y)


def _second_row(site: Site, call: Call, _: float) -> Array:
    axis = -2 if site.operator.kind == "linear" else -1
    y = np.moveaxis(call.y.copy(), axis, 0)
    if y.shape[0] < 2:
        raise Unfit("one row")
    y[1::2] = y[0 : y.shape[0] // 2 * 2 : 2]
    return np.moveaxis(y, 0, axis)


def _made(name: str, place: Place, severity: Severity, change: Any) -> Defect:
    function: Callable[..., Any] = change
    return Defect(
        name=f"unseen_{name}",
        summary=name.replace("_", " "),
        place=place,
        severity=severity,
        links=(),
        change=function,
    )


DEFECTS = (
    _made("last_block_has_the_scale_before", "weight", "silent", _last_block),
    _made("channels_of_a_tile_rotated", "weight", "catastrophic", _tiles_rotated),
    _made("lowest_bit_lost", "weight", "silent", _lowest_bit),
    _made("root_of_the_scale", "weight", "catastrophic", _root),
    _made("scale_applied_twice", "weight", "catastrophic", _squared),
    _made("scales_in_fp8", "weight", "silent", _scale_in_fp8),
    _made("outliers_clipped", "weight", "silent", _clipped),
    _made("made_from_int8", "weight", "silent", _quantized_before),
    _made("every_16th_column_lost", "weight", "visible", _column_lost),
    _made("two_channels_exchanged", "weight", "silent", _two_channels),
    _made("negative_weights_larger", "weight", "silent", _negative_larger),
    _made("one_sign_flipped", "weight", "silent", _one_sign),
    _made("input_mean_lost", "input", "visible", _mean_lost),
    _made("input_scale_from_rms", "input", "visible", _from_rms),
    _made("input_pairs_exchanged", "input", "catastrophic", _pairs),
    _made("input_taken_for_unsigned", "input", "visible", _unsigned),
    _made("input_lowest_bit_lost", "input", "silent", _codes_of_seven_bits),
    _made("input_scale_a_quarter_larger", "input", "silent", _stretched),
    _made("bias_in_int8", "output", "silent", _bias_in_int8),
    _made("half_of_the_bias_missing", "output", "visible", _half_a_bias),
    _made("half_of_k_added_twice", "output", "visible", _half_of_k),
    _made("relu_unasked", "output", "visible", _relu),
    _made("small_signs_lost", "output", "silent", _absolute),
    _made("every_second_row_repeated", "output", "catastrophic", _second_row),
)


def register(registry: Registry) -> None:
    """Add them beside the catalogue."""
    for defect in DEFECTS:
        registry.add_defect(defect)
