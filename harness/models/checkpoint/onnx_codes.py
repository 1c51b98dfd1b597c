"""Constants of ONNX that hold a weight's codes, as `Quantized`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from harness.errors import ModelError
from harness.numerics import Quantized
from harness.numerics.grid import make_grid

Array = np.ndarray[Any, np.dtype[Any]]

#: ONNX element type -> our name of the format.
FORMATS_OF_ONNX: Final = {
    "int8": "int8",
    "uint8": "uint8",
    "int4": "int4",
    "uint4": "uint4",
    "float8e4m3fn": "fp8_e4m3",
    "float8e5m2": "fp8_e5m2",
    "float8e4m3fnuz": "fp8_e4m3fnuz",
    "float8e5m2fnuz": "fp8_e5m2fnuz",
}


@dataclass(frozen=True)
class DecodedBy:
    """What says how codes and scales belong together.

    Attributes:
        axis: along which scales differ, or along which blocks lie.
        block: values of a block; 0: there are none.
        transposed: whether the codes are (in, out).
    """

    axis: int
    block: int
    transposed: bool


def quantized_of(
    arrays: Sequence[Array | None], kind: str, how: DecodedBy
) -> Quantized:
    """A weight in torch's layout.

    Args:
        arrays: codes as ONNX's NumPy gives them; scales: one, one an index of the axis,
            or one a block; zero points of the scales' shape, or left out.
        kind: ONNX element type of the codes.
        how: how they belong together.

    Raises:
        ModelError: an element type, or scales, that are not read here.
    """
    if kind not in FORMATS_OF_ONNX:
        raise ModelError(f"codes of type {kind} are not read here")
    codes, scales = arrays[0], arrays[1]
    assert codes is not None and scales is not None  # sanity check  # noqa: PT018
    points = arrays[2] if len(arrays) > 2 else None
    name = FORMATS_OF_ONNX[kind]
    rank = codes.ndim
    if how.block and how.axis % rank != (0 if how.transposed else 1):
        raise ModelError(
            f"its blocks lie along axis {how.axis} of {list(codes.shape)}, but should "
            "lie along its inputs"
        )
    by = _laid(np.asarray(scales, np.float32), rank, how)
    zero = None
    if name.endswith(("int8", "int4")) and points is not None:
        zero = _laid(points.astype(np.int32), rank, how)
    elif name.startswith("uint"):
        zero = np.zeros(by.shape, np.int32)
    bits = _bits(codes, name)
    if how.transposed:
        bits, by = bits.T, by.T
        zero = None if zero is None else zero.T
    if name.startswith("int") and zero is not None and not zero.any():
        zero = None
    axis: int | tuple[int, ...] = 1
    if not how.block:
        axis = tuple(range(rank)) if by.size == 1 else tuple(range(1, rank))
    grid = make_grid(bits.shape, axis, how.block)
    if grid.scales_shape != by.shape:
        raise ModelError(
            f"its weight {list(bits.shape)} has scales {list(by.shape)}, but should "
            "have one, one an output channel, or one a block of inputs"
        )
    return Quantized(
        codes=np.ascontiguousarray(bits),
        scales=np.ascontiguousarray(by),
        global_scale=1.0,
        format=name,
        axis=grid.axis,
        block=how.block,
        shape=bits.shape,
        rule="stored",
        zero_points=None if zero is None else np.ascontiguousarray(zero),
    )


def _laid(values: Array, rank: int, how: DecodedBy) -> Array:
    """One value, or one an index of an axis, with the weight's rank.

    Raises:
        ModelError: neither.
    """
    if how.block:
        return values
    if values.ndim > 1:
        raise ModelError(
            f"its scales are {list(values.shape)} without block_size, but should be "
            "one number or one an index of an axis"
        )
    shape = [1] * rank
    if values.size > 1:
        shape[how.axis % rank] = values.size
    return values.reshape(shape)


def _bits(codes: Array, name: str) -> Array:
    """uint8 codes, one a number, two's complement."""
    if name.endswith("int4"):
        found: Array = codes.astype(np.int8).view(np.uint8) & np.uint8(15)
        return found
    return np.ascontiguousarray(codes).view(np.uint8)
