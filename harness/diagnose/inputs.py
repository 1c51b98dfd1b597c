"""Candidate causes in how an operator's input is quantized."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import ml_dtypes
import numpy as np

from harness.diagnose.observation import Observation
from harness.diagnose.types import FLUSHED
from harness.numerics import FORMATS, Quantized, decode, find_format, quantize
from harness.schemes.apply import quantize_activation
from harness.schemes.types import TensorScheme

Array = np.ndarray[Any, np.dtype[Any]]
#: A cause's name, its detail, and what becomes of an input: float32, decoded.
Named = tuple[str, str, Callable[[Array], Array]]
_Requantized = Callable[[Array, Quantized], Array]


def candidates(seen: Observation) -> Iterator[Named]:
    """Everything that a known mistake would make of this operator's input."""
    axis = -1 if seen.operator.kind == "linear" else 1
    yield from _layouts(seen, axis)
    if not seen.plan.activations:
        yield from _uninvited(seen)
        return
    tensor = seen.scheme.activations
    assert tensor is not None  # sanity check
    yield "input not quantized", "the input is not quantized", _plain
    for words, change in _changes(tensor, axis):
        name, _, detail = words.partition(": ")
        yield name, detail, _with(seen, change)
    yield from _other_schemes(seen, tensor)
    if not tensor.dynamic:
        yield from _calibrations(seen)


def _plain(x: Array) -> Array:
    return np.asarray(x, np.float32)


def _with(seen: Observation, change: _Requantized) -> Callable[[Array], Array]:
    def changed(x: Array) -> Array:
        q = quantize_activation(seen.operator, x, seen.scheme)
        with np.errstate(all="ignore"):
            return change(np.asarray(x, np.float32), q)

    return changed


def _again(x: Array, q: Quantized, scales: Any = None, **options: Any) -> Array:
    blocked = find_format(q.format).kind == "block"
    chosen = q.scales if scales is None else np.asarray(scales, np.float32)
    chosen = np.where(np.isfinite(chosen) & (chosen > 0), chosen, 1)
    return quantize(  # type: ignore[no-any-return]
        x,
        q.format,
        axis=q.axis,
        block=q.block or None,
        scale=np.broadcast_to(chosen, q.scales.shape),
        global_scale=q.global_scale if blocked and q.global_scale != 1.0 else None,
        **options,
    ).dequantize()


def _decoded(q: Quantized, scales: Any = None, codes: Any = None) -> Array:
    changed = dataclasses.replace(
        q,
        codes=q.codes if codes is None else codes,
        scales=q.scales
        if scales is None
        else np.broadcast_to(np.asarray(scales, np.float32), q.scales.shape).copy(),
    )
    return changed.dequantize()  # type: ignore[no-any-return]


def _changes(tensor: TensorScheme, axis: int) -> Iterator[tuple[str, _Requantized]]:
    fmt = find_format(tensor.format)
    element = FORMATS[fmt.element] if fmt.kind == "block" else fmt
    for mode in ("toward_zero", "nearest_away", "down", "up", "away"):
        words = f"rounding mode: input rounded {mode.replace('_', ' ')}"
        yield words, _mode(mode)
    for dtype in (ml_dtypes.bfloat16, np.float16):
        name = np.dtype(dtype).name
        yield (
            f"rounded twice: input over its scale rounded to {name} first",
            _twice(dtype),
        )
        yield (
            f"rounded twice: input rounded to {name} first",
            _early(dtype),
        )
    if element.kind == "float":
        for exponent in sorted({element.emin, -6, -5, -4, -3, -2, -1}):
            yield (
                f"{FLUSHED}: input elements below 2**{exponent} are zero",
                _flush(exponent),
            )
    for other in FORMATS.values():
        same = other.bits == element.bits and other.kind not in ("block", "scale")
        if same and other.name != element.name:
            yield (
                f"codes read as another format: input codes read as {other.name}",
                _read(other.name),
            )
    if element.bits == 4:
        yield (
            "codes of a byte swapped: the two 4-bit codes of the input's bytes",
            _nibbles(axis),
        )
    ratios = {"240 instead of 448": 448 / 240, "half": 2.0, "double": 0.5}
    ratios["a code more"] = element.max / (element.max + 1)
    ratios["half a code more"] = element.max / (element.max + 0.5)
    for words, ratio in ratios.items():
        yield (
            f"scale computed wrongly: the input's for a largest value of {words}",
            _scaled(ratio),
        )
    for dtype in (ml_dtypes.bfloat16, np.float16):
        yield (
            f"scale of low precision: the input's rounded to {np.dtype(dtype).name}",
            _low(dtype),
        )
    yield "one scale for all: the input's first scale", _first
    yield "one scale for all: the input's largest scale", _largest
    yield (
        "scale rounded to a power of two: the input's, rounded up, used throughout",
        _power(requantize=True),
    )
    yield (
        "scale rounded to a power of two: the input's, after its codes were made",
        _power(requantize=False),
    )
    for step in (1, -1):
        yield (
            f"scales shifted along K: the input's, by {step} block",
            _rolled(axis, step),
        )
        yield (
            f"scales shifted along rows: the input's, by {step} row",
            _rolled(-2, step),
        )
    yield (
        "scale from values without magnitude: the input's",
        _without_magnitude,
    )
    yield "one scale for all: the input's first block of every row", _stuck(axis)


def _mode(mode: str) -> _Requantized:
    return lambda x, q: _again(x, q, rounding=mode)


def _twice(dtype: Any) -> _Requantized:
    def change(x: Array, q: Quantized) -> Array:
        by = q.expanded_scales()
        return _again((x / by).astype(dtype).astype(np.float32) * by, q)

    return change


def _early(dtype: Any) -> _Requantized:
    return lambda x, q: _again(x.astype(dtype).astype(np.float32), q)


def _flush(exponent: int) -> _Requantized:
    def change(x: Array, q: Quantized) -> Array:  # noqa: ARG001
        values = decode(q.codes, q.element).astype(np.float32)
        kept = np.where(np.abs(values) < 2.0**exponent, np.float32(0), values)
        found: Array = kept * q.expanded_scales()
        return found

    return change


def _read(name: str) -> _Requantized:
    def change(x: Array, q: Quantized) -> Array:  # noqa: ARG001
        found: Array = decode(q.codes, name).astype(np.float32) * q.expanded_scales()
        return found

    return change


def _nibbles(axis: int) -> _Requantized:
    def change(x: Array, q: Quantized) -> Array:
        order = np.arange(x.shape[axis])
        order[: order.size - order.size % 2] ^= 1
        return _decoded(q, codes=np.take(q.codes, order, axis=axis))

    return change


def _scaled(ratio: float) -> _Requantized:
    return lambda x, q: _again(x, q, q.scales * np.float32(ratio))


def _low(dtype: Any) -> _Requantized:
    return lambda x, q: _again(x, q, q.scales.astype(dtype).astype(np.float32))


def _first(x: Array, q: Quantized) -> Array:
    return _again(x, q, np.full_like(q.scales, q.scales.reshape(-1)[0]))


def _largest(x: Array, q: Quantized) -> Array:
    return _again(x, q, np.full_like(q.scales, q.scales.max()))


def _power(*, requantize: bool) -> _Requantized:
    def change(x: Array, q: Quantized) -> Array:
        scales = np.exp2(np.ceil(np.log2(q.scales)))
        return _again(x, q, scales) if requantize else _decoded(q, scales)

    return change


def _rolled(axis: int, step: int) -> _Requantized:
    def change(x: Array, q: Quantized) -> Array:
        if q.scales.ndim < 2 or abs(axis) > q.scales.ndim:
            return _decoded(q)
        del x
        return _decoded(q, np.roll(q.scales, step, axis=axis))

    return change


def _stuck(axis: int) -> _Requantized:
    def change(x: Array, q: Quantized) -> Array:
        del x
        return _decoded(q, np.take(q.scales, [0], axis=axis))

    return change


def _without_magnitude(x: Array, q: Quantized) -> Array:
    view = q.grid.to_view(x)
    tall, wide = q.grid.tall, q.grid.wide
    outer, length, inner = view.shape
    pads = [(0, 0), (0, -length % tall), (0, -inner % wide)]

    def largest(values: Array) -> Array:
        padded = np.pad(values, pads, constant_values=-np.inf)
        boxes = padded.reshape(outer, padded.shape[1] // tall, tall, -1, wide)
        found: Array = q.grid.scales_from_view(boxes.max(axis=(2, 4)))
        return found

    signed, whole = largest(view), largest(np.abs(view))
    share = np.where(
        (signed > 0) & (whole > 0), signed / np.where(whole > 0, whole, 1), 1
    )
    return _again(x, q, q.scales * share)


def _scheme(seen: Observation, tensor: TensorScheme) -> Callable[[Array], Array]:
    scheme = dataclasses.replace(seen.scheme, activations=tensor)
    return lambda x: quantize_activation(seen.operator, x, scheme).dequantize()


def _other_schemes(seen: Observation, tensor: TensorScheme) -> Iterator[Named]:
    """Another format, granularity or block size."""
    fmt = find_format(tensor.format)
    if fmt.kind == "block":
        for factor in (2, 4):
            wider = dataclasses.replace(tensor, block=fmt.block * factor)
            yield (
                "scale over another group",
                f"the input's blocks are of {fmt.block * factor}",
                _scheme(seen, wider),
            )
        if fmt.scale == "fp8_e8m0":
            for rule in ("ceil", "rceil", "even"):
                other = dataclasses.replace(tensor, rule=rule)
                yield (
                    "scale computed wrongly",
                    f"the input's block exponents by the rule {rule!r}",
                    _scheme(seen, other),
                )
        if not tensor.dynamic:
            yield (
                "static taken for dynamic",
                "the input's tensor scale is found from each input",
                _scheme(seen, dataclasses.replace(tensor, dynamic=True)),
            )
    else:
        for granularity in ("tensor", "row"):
            for dynamic in (True, False):
                other = dataclasses.replace(
                    tensor,
                    granularity=granularity,
                    dynamic=dynamic,
                )
                same = granularity == tensor.granularity and dynamic == tensor.dynamic
                useless = not dynamic and granularity == "row"
                if not same and not useless and (dynamic or seen.scheme.calibration):
                    words = (
                        f"one a {granularity}, {'found' if dynamic else 'calibrated'}"
                    )
                    yield (
                        "scale over another group",
                        f"the input's scale is {words}",
                        _scheme(seen, other),
                    )
    for name in _formats(fmt.name):
        kind = find_format(name).kind
        granularity = "block" if kind == "block" else tensor.granularity
        if kind != "block" and granularity == "block":
            granularity = "row"
        other = dataclasses.replace(
            tensor,
            format=name,
            granularity=granularity,  # type: ignore[arg-type]
            block=None,
            rule=None,
            dynamic=tensor.dynamic or kind == "block",
        )
        yield (
            "another format",
            f"the input is quantized to {name} instead of {fmt.name}",
            _scheme(seen, other),
        )


def _formats(own: str) -> list[str]:
    return [
        f.name
        for f in FORMATS.values()
        if f.kind != "scale" and f.bits <= 8 and f.name != own and f.signed
    ]


def _calibrations(seen: Observation) -> Iterator[Named]:
    """The calibrated range times a factor: saturating, wasted, or NaN beyond it."""
    for factor in (0.95, 0.9, 0.75, 0.5, 0.25, 0.1, 0.05, 2.0, 4.0, 0.02):
        amax = {name: value * factor for name, value in seen.scheme.calibration.items()}
        scheme = dataclasses.replace(seen.scheme, calibration=amax)

        def saturated(x: Array, scheme: Any = scheme) -> Array:
            q = quantize_activation(seen.operator, x, scheme)
            return q.dequantize()  # type: ignore[no-any-return]

        def unclamped(x: Array, scheme: Any = scheme) -> Array:
            q = quantize_activation(seen.operator, x, scheme)
            return _again(np.asarray(x, np.float32), q, overflow="nan")

        yield "static range wrong", f"the calibrated range times {factor}", saturated
        if FORMATS[find_format(seen.scheme.activations.format).name].kind == "float":  # type: ignore[union-attr]
            yield (
                "input not clamped",
                f"beyond {factor} times the calibrated range inputs become NaN",
                unclamped,
            )


def _uninvited(seen: Observation) -> Iterator[Named]:
    """A weight-only scheme whose kernel quantizes the input as well."""
    axis: Any = -1
    if seen.operator.kind == "conv":
        axis = tuple(range(1, seen.operator.weight.ndim))
    for name in ("int8", "fp8_e4m3", "fp8_e5m2"):
        for words, along in (("a row", axis), ("a tensor", None)):
            yield (
                "input also quantized",
                f"the input is quantized to {name}, one scale {words}",
                partial(_rounded, name=name, axis=along),
            )
    for block in (16, 32, 64, 128):
        if seen.operator.kind == "linear":
            yield (
                "input also quantized",
                f"the input is quantized to int8 in blocks of {block}",
                partial(_rounded, name="int8", axis=-1, block=block),
            )
    along = -1 if seen.operator.kind == "linear" else 1
    for name in ("mxfp8_e4m3", "mxfp4", "nvfp4"):
        yield (
            "input also quantized",
            f"the input is quantized to {name}",
            partial(_rounded, name=name, axis=along),
        )
    for dtype in (ml_dtypes.bfloat16, np.float16):
        yield (
            "input of low precision",
            f"the input is rounded to {np.dtype(dtype).name}",
            partial(_cast, dtype=dtype),
        )


def _rounded(x: Array, name: str, axis: Any, block: int | None = None) -> Array:
    return quantize(x, name, axis=axis, block=block).dequantize()  # type: ignore[no-any-return]


def _cast(x: Array, dtype: Any) -> Array:
    return x.astype(dtype).astype(np.float32)


def _shifted(x: Array, seen: Observation, step: int, axis: int) -> Array:
    entry = seen.quantized(x)
    return np.roll(entry, step, axis=axis) if x.ndim > 1 else entry


def _layouts(seen: Observation, axis: int) -> Iterator[Named]:
    """The decoded input in another order along the rows."""
    for step in (1, -1):
        yield (
            "rows of the input shifted",
            f"the input's rows are shifted by {step}",
            partial(_shifted, seen=seen, step=step, axis=-2 if axis == -1 else -1),
        )
