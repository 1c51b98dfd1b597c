"""Scales (and zero points) from the values, and codes in the same pass where it can."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np

from harness.numerics import compiled, engine
from harness.numerics.arrays import Array
from harness.numerics.formats import Format, element_format
from harness.numerics.grid import Grid, make_grid
from harness.numerics.scales import (
    element_scales,
    mx_addend,
    mx_scales,
    nvfp4_block_scales,
    nvfp4_tensor_scale,
    range_scales,
)

_NORMAL_SCALE: Final = 2.0**-6
#: Elements of a group that a second-level cache holds while it is read twice.
_CACHED: Final = 1 << 16


@dataclass(frozen=True, kw_only=True)
class Job:
    """What `quantize` was asked, checked; `view` is the tensor in the grid's view."""

    view: Array
    grid: Grid
    fmt: Format
    element: Format
    rule: str
    overflow: str
    rounding: str
    symmetric: bool
    #: The tensor's scale if it is given.
    global_scale: float | None


Computed = tuple[Array, float, Array | None, Array | None]


def compute(job: Job) -> Computed:
    """Scales, the tensor's scale, zero points or None, codes or None; in the view."""
    fused = _fused(job)
    if fused is not None:
        return fused
    tensor = 1.0
    points: Array | None = None
    if job.fmt.kind == "int" and not job.symmetric:
        low, high, poisoned = engine.extremes(job.view, job.grid)
        scales, points = range_scales(job.fmt, low, high)
    else:
        amax, poisoned = engine.amax(job.view, job.grid)
        if job.fmt.scale == "fp8_e8m0":
            scales = mx_scales(job.element, amax, job.rule)
        elif job.fmt.kind == "block":
            scales, tensor = _nvfp4(job, amax)
        else:
            scales = element_scales(job.fmt, amax, job.rule)
        if job.fmt.kind == "int" and not job.fmt.signed:
            points = np.full(scales.shape, 1 << (job.fmt.bits - 1), np.int32)
    if poisoned is not None and job.element.nan_code is None:
        scales = np.where(poisoned, np.float32(np.nan), scales)
    return scales, tensor, points, None


def _nvfp4(job: Job, amax: Array) -> tuple[Array, float]:
    """Block scales, decoded, and the tensor's scale."""
    tensor = job.global_scale
    if tensor is None:
        largest = float(amax.max(initial=0.0))
        tensor = nvfp4_tensor_scale(job.fmt, largest, job.rule)
    smallest = _NORMAL_SCALE if job.rule == "normal" else 0.0
    scales = nvfp4_block_scales(job.fmt, amax, tensor, smallest=smallest)
    if job.rule == "4over6":
        fours = nvfp4_block_scales(job.fmt, amax, tensor, top=4.0)
        errors = [
            engine.squared_error(job.view, job.grid, each, tensor, job.element)
            for each in (fours, scales)
        ]
        scales = np.where(errors[0] < errors[1], fours, scales)
    return scales, tensor


def _fused(job: Job) -> Computed | None:
    """Everything in one pass of the compiled loops, where they know how."""
    loops = compiled.loops(job.view)
    plain = job.grid.tall == 1 and job.grid.wide <= _CACHED
    known = compiled.can_encode(job.element, job.rounding)
    if loops is None or not plain or not known:
        return None
    tensor, addend, largest = 1.0, 0, job.element.max
    point: int | None = None
    if job.fmt.kind == "int" and not job.symmetric:
        mode = "range"
    elif job.fmt.scale == "fp8_e8m0":
        mode, addend = "power", mx_addend(job.element, job.rule)
    elif job.fmt.kind == "block":
        if job.rule == "4over6":
            return None
        mode = "nvfp4"
        tensor = job.global_scale or _tensor_scale(job)
    elif job.rule == "amax":
        mode = "divide"
        if job.fmt.kind == "int" and not job.fmt.signed:
            point = 1 << (job.fmt.bits - 1)
            largest = point - 1.0
    else:
        return None
    smallest = element_format("fp8_e4m3").min
    if job.rule == "normal":
        smallest = _NORMAL_SCALE
    scales, points, codes = compiled.quantize_rows(
        job.view,
        job.grid,
        job.element,
        overflow=job.overflow,
        mode=mode,
        constants=(largest, tensor, smallest),
        addend=addend,
        point=point,
    )
    return scales, tensor, points, codes


def _tensor_scale(job: Job) -> float:
    whole = make_grid((1, 1, job.view.size), None, None)
    amax, _ = engine.amax(job.view.reshape(whole.view), whole)
    return nvfp4_tensor_scale(job.fmt, float(amax.reshape(())), job.rule)
