"""Scales and zero points that the caller gives: checked and laid on the grid."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from harness.errors import NumericsError
from harness.numerics.arrays import Array, as_numpy
from harness.numerics.formats import Format
from harness.numerics.grid import Grid


def positive(global_scale: float) -> float:
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


def check_integer_options(
    element: Format, zero_point: Any, scale: Any, *, symmetric: bool
) -> None:
    """Refuse zero points where they cannot be or are not all given.

    Raises:
        NumericsError: says which option does not go with which.
    """
    if element.kind != "int" and (zero_point is not None or not symmetric):
        raise NumericsError(f"{element.name} has no zero points; only integers have")
    if zero_point is not None and scale is None:
        raise NumericsError("zero_point without scale: give both or neither")
    if scale is not None and not symmetric and zero_point is None:
        raise NumericsError("symmetric=False with a given scale needs a zero_point")


def given_scales(scale: Any, grid: Grid) -> Array:
    """Static scales in the view, checked.

    Raises:
        NumericsError: not positive and finite, or of a shape that does not fit.
    """
    array, _ = as_numpy(scale)
    with np.errstate(over="ignore"):
        scales = np.asarray(array, dtype=np.float32)
    if not (np.isfinite(scales).all() and (scales > 0).all()):
        raise NumericsError("scale should be positive and finite in float32")
    return _fitted(scales, grid, "scale")


def given_points(element: Format, zero_point: Any, grid: Grid) -> Array | None:
    """Static zero points in the view, checked; None where there are none.

    Raises:
        NumericsError: not whole, out of the element's range, of a shape that does not
            fit.
    """
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
