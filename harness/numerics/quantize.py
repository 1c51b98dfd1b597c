"""Tensors with scales: one a tensor, a row, a channel or a block.

`axis` is the direction along which values share a scale. For an element format:
`None`, one scale for all; `-1`, one a row; `(1, 2, 3)`, one an output channel of a
convolution; with `block=n`, one for each run of n values along the axis; with
`block=(m, n)`, one for each box of the last two axes. For a block format the blocks
run along `axis`; a tail that does not fill a block is a smaller block.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from harness.numerics import engine
from harness.numerics.arrays import Array, as_numpy, floating
from harness.numerics.codec import check_rules
from harness.numerics.computed import Job, compute
from harness.numerics.formats import element_format, find_format
from harness.numerics.given import (
    check_integer_options,
    given_points,
    given_scales,
    positive,
)
from harness.numerics.grid import Axis, Block, make_grid
from harness.numerics.quantized import Quantized
from harness.numerics.rounding import Overflow, Rounding
from harness.numerics.scales import check_rule


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
    check_integer_options(element, zero_point, scale, symmetric=symmetric)
    grid = make_grid(array.shape, axis, fmt.block if block is None else block)
    tensor = 1.0 if global_scale is None else positive(global_scale)
    points: Array | None = None
    codes: Array | None = None
    if not array.size:
        # Every group that there is has the scale 1.
        scales = np.ones(grid.scales_shape, np.float32)
        codes = np.zeros(array.shape, np.uint16 if fmt.bits == 16 else np.uint8)
        if fmt.kind == "int" and not (symmetric and fmt.signed):
            points = np.zeros(grid.scales_shape, np.int32)
    else:
        view = grid.to_view(array)
        if scale is not None:
            scales = given_scales(scale, grid)
            points = given_points(element, zero_point, grid)
        else:
            job = Job(
                view=view,
                grid=grid,
                fmt=fmt,
                element=element,
                rule=used,
                overflow=overflow,
                rounding=rounding,
                symmetric=symmetric,
                global_scale=None if global_scale is None else tensor,
            )
            scales, tensor, points, codes = compute(job)
        if codes is None:
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
        codes, scales = grid.from_view(codes), grid.scales_from_view(scales)
        points = None if points is None else grid.scales_from_view(points)
    return Quantized(
        codes=back(codes),
        scales=back(scales),
        global_scale=tensor,
        zero_points=None if points is None else back(points),
        format=fmt.name,
        axis=grid.axis,
        block=grid.block,
        shape=array.shape,
        rule=used,
    )
