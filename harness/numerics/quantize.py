"""Tensors with scales: one a tensor, a row, a channel or a block.

`axis` is the direction along which values share a scale. For an element format:
`None`, one scale for all; `-1`, one a row; `(1, 2, 3)`, one an output channel of a
convolution; with `block=n`, one for each run of n values along the axis; with
`block=(m, n)`, one for each box of the last two axes. For a block format the blocks
run along `axis`; a tail that does not fill a block is a smaller block.
"""

from __future__ import annotations

import math
from typing import Any, Final

import numpy as np

from harness.errors import NumericsError
from harness.numerics import engine
from harness.numerics.arrays import Array, Back, as_numpy, floating
from harness.numerics.codec import check_rules
from harness.numerics.formats import Format, element_format, find_format
from harness.numerics.grid import Axis, Block, Grid, make_grid
from harness.numerics.quantized import Quantized
from harness.numerics.rounding import Overflow, Rounding
from harness.numerics.scales import (
    check_rule,
    element_scales,
    mx_scales,
    nvfp4_block_scales,
    nvfp4_tensor_scale,
    range_scales,
)

_NORMAL_SCALE: Final = 2.0**-6


def quantize(
    x: Any,
    format: str,  # noqa: A002 - the field's word
    *,
    axis: Axis = -1,
    block: Block | None = None,
    scale: Any = None,
    global_scale: float | None = None,
    zero_point: Any = None,
    rule: str | None = None,
    rounding: Rounding = "nearest_even",
    overflow: Overflow = "saturate",
    symmetric: bool = True,
    seed: int | None = None,
) -> Quantized:
    """Quantize a tensor.

    A value is divided by its scale in float32 (float64 values: in float64), and the
    quotient is rounded to the element. An all-zero group has the scale 1 (MX: 2**-127,
    NVFP4: the smallest E4M3 scale). Non-finite values do not take part in a scale. Inf
    is an overflow of the element. NaN is the element's NaN; where the element has none
    the scale of its group becomes NaN, so that the group decodes to NaN (OCP MX v1.0
    section 6.2); with given scales it becomes zero.

    Args:
        x: float16, bfloat16, float32 or float64 values, NumPy or torch, any layout.
        format: an element or block format's name.
        axis: direction along which values share a scale.
        block: values that share a scale along the axis; None: the format's own. Longer
            than the axis: the whole axis.
        scale: given (static) scales instead of computed ones, broadcastable.
        global_scale: NVFP4: the tensor's scale instead of a computed one.
        zero_point: integers: given zero points, broadcastable; needs `scale`.
        rule: scale rule, see `harness.numerics.scales`; None: the format's default.
        rounding: see `encode`.
        overflow: see `encode`.
        symmetric: integers: no zero point (uint8 and uint4: one in the middle, 128 or
            8); False: zero points so that the codes cover the group's range.
        seed: see `encode`.

    Raises:
        NumericsError: unknown format, rule or mode; axis out of range; bad block,
            scales or zero points; a float64 group whose scale leaves float32.
    """
    fmt = find_format(format)
    element = element_format(fmt.element) if fmt.kind == "block" else fmt
    check_rules(element, overflow, rounding, seed)
    used = check_rule(fmt, rule)
    array, back = as_numpy(x)
    array = floating(array)
    _check_integer_options(element, zero_point, scale, symmetric=symmetric)
    grid = make_grid(array.shape, axis, fmt.block if block is None else block)
    if not array.size:
        return _empty(array, grid, fmt, used, symmetric=symmetric, back=back)
    view = grid.to_view(array)
    given = None if scale is None else _given(scale, grid, "scale")
    if given is None:
        scales, tensor, points = _computed(
            view, grid, fmt, used, global_scale, symmetric=symmetric
        )
    else:
        scales, points = given, _given_points(element, zero_point, grid)
        tensor = 1.0 if global_scale is None else _positive(global_scale)
    codes = engine.encode_scaled(
        view,
        grid,
        scales,
        tensor=tensor,
        points=points,
        element=element,
        overflow=overflow,
        rounding=rounding,
        seed=seed,
    )
    return Quantized(
        codes=back(grid.from_view(codes)),
        scales=back(grid.scales_from_view(scales)),
        global_scale=tensor,
        zero_points=None if points is None else back(grid.scales_from_view(points)),
        format=fmt.name,
        axis=grid.axis,
        block=grid.block,
        shape=array.shape,
        rule=used,
    )


def _empty(
    array: Array,
    grid: Grid,
    fmt: Format,
    rule: str,
    *,
    symmetric: bool,
    back: Back,
) -> Quantized:
    """Nothing, quantized: every group that there is has the scale 1."""
    plain = fmt.kind != "int" or (symmetric and fmt.signed)
    points = None if plain else back(np.zeros(grid.scales_shape, np.int32))
    return Quantized(
        codes=back(np.zeros(array.shape, np.uint16 if fmt.bits == 16 else np.uint8)),
        scales=back(np.ones(grid.scales_shape, np.float32)),
        global_scale=1.0,
        zero_points=points,
        format=fmt.name,
        axis=grid.axis,
        block=grid.block,
        shape=array.shape,
        rule=rule,
    )


def _computed(
    view: Array,
    grid: Grid,
    fmt: Format,
    rule: str,
    global_scale: float | None,
    *,
    symmetric: bool,
) -> tuple[Array, float, Array | None]:
    """Scales, the tensor's scale and zero points from the values; in the view."""
    tensor = 1.0
    points: Array | None = None
    if fmt.kind == "int" and not symmetric:
        low, high, poisoned = engine.extremes(view, grid)
        scales, points = range_scales(fmt, low, high)
    else:
        amax, poisoned = engine.amax(view, grid)
        if fmt.kind != "block":
            scales = element_scales(fmt, amax, rule)
            if fmt.kind == "int" and not fmt.signed:
                points = np.full(scales.shape, 1 << (fmt.bits - 1), np.int32)
        elif fmt.scale == "fp8_e8m0":
            scales = mx_scales(element_format(fmt.element), amax, rule)
        else:
            scales, tensor = _nvfp4(
                view, grid, fmt, amax, rule=rule, global_scale=global_scale
            )
    element = element_format(fmt.element) if fmt.kind == "block" else fmt
    if poisoned is not None and element.nan_code is None:
        scales = np.where(poisoned, np.float32(np.nan), scales)
    return scales, tensor, points


def _nvfp4(
    view: Array,
    grid: Grid,
    fmt: Format,
    amax: Array,
    *,
    rule: str,
    global_scale: float | None,
) -> tuple[Array, float]:
    if global_scale is not None:
        tensor = _positive(global_scale)
    else:
        tensor = nvfp4_tensor_scale(fmt, float(amax.max(initial=0.0)), rule)
    smallest = _NORMAL_SCALE if rule == "normal" else 0.0
    scales = nvfp4_block_scales(fmt, amax, tensor, smallest=smallest)
    if rule == "4over6":
        fours = nvfp4_block_scales(fmt, amax, tensor, top=4.0)
        element = element_format(fmt.element)
        better = engine.squared_error(
            view, grid, fours, tensor, element
        ) < engine.squared_error(view, grid, scales, tensor, element)
        scales = np.where(better, fours, scales)
    return scales, tensor


def _positive(global_scale: float) -> float:
    """A given tensor scale, as float32 holds it.

    Raises:
        NumericsError: not positive and finite.
    """
    with np.errstate(over="ignore"):
        value = float(np.float32(global_scale))
    if not (math.isfinite(value) and value > 0):
        raise NumericsError(
            f"global_scale={global_scale}, but should be positive and fit float32"
        )
    return value


def _check_integer_options(
    element: Format, zero_point: Any, scale: Any, *, symmetric: bool
) -> None:
    if element.kind != "int" and (zero_point is not None or not symmetric):
        raise NumericsError(f"{element.name} has no zero points; only integers have")
    if zero_point is not None and scale is None:
        raise NumericsError("zero_point without scale: give both or neither")
    if scale is not None and not symmetric and zero_point is None:
        raise NumericsError("symmetric=False with a given scale needs a zero_point")


def _given(scale: Any, grid: Grid, what: str) -> Array:
    """Static scales in the view, checked.

    Raises:
        NumericsError: not positive and finite, or of a shape that does not fit.
    """
    array, _ = as_numpy(scale)
    with np.errstate(over="ignore"):
        scales = np.asarray(array, dtype=np.float32)
    if not (np.isfinite(scales).all() and (scales > 0).all()):
        raise NumericsError(f"{what} should be positive and finite in float32")
    return _fitted(scales, grid, what)


def _given_points(element: Format, zero_point: Any, grid: Grid) -> Array | None:
    if element.kind != "int":
        return None
    if zero_point is None:
        if element.signed:
            return None
        zero_point = 1 << (element.bits - 1)
    array, _ = as_numpy(zero_point)
    low = -(1 << (element.bits - 1)) if element.signed else 0
    if array.dtype.kind not in "iu":
        raise NumericsError(f"zero_point has dtype={array.dtype}, but should be whole")
    if array.size and not (array.min() >= low and array.max() <= element.max):
        raise NumericsError(
            f"zero_point should lie in [{low}, {int(element.max)}] of {element.name}"
        )
    return _fitted(array.astype(np.int32), grid, "zero_point")


def _fitted(array: Array, grid: Grid, what: str) -> Array:
    try:
        fitted = np.broadcast_to(array, grid.scales_shape)
    except ValueError:
        raise NumericsError(
            f"{what} has shape {array.shape}, but should broadcast to "
            f"{grid.scales_shape}"
        ) from None
    return grid.scales_to_view(fitted).copy()
