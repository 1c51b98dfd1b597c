"""Tensors with scales: one a tensor, a row, a channel or a block.

`axis` is the direction along which values share a scale. For an element format:
`None`, one scale for all; `-1`, one a row; `(1, 2, 3)`, one an output channel of a
convolution; with `block`, one for each run of `block` values along the axis. For a
block format the blocks run along `axis`; a tail that does not fill a block is a
smaller block.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from harness.errors import NumericsError
from harness.numerics.codec import (
    Overflow,
    as_numpy,
    decode,
    element_format,
    encode,
    floating,
)
from harness.numerics.formats import Format, find_format

Array = np.ndarray[Any, np.dtype[Any]]
Axis = int | tuple[int, ...] | None

#: OCP MX v1.0 section 6.3 is "floor"; the others are what vendors do.
_MX_RULES: Final = ("floor", "ceil", "rceil", "even")
_NV_RULES: Final = ("amax", "no_global")


@dataclass(frozen=True, eq=False)
class Quantized:
    """Codes with their scales.

    Attributes:
        codes: one code an entry, in the shape of the tensor.
        scales: float32, broadcastable against the codes once repeated over a block.
        global_scale: NVFP4's float32 scale of the whole tensor, else 1.
        format: name of the format.
        axis: as given.
        block: elements that share a scale along the axis; 0: the whole axis.
        shape: shape of the tensor.
        rule: the scale rule that was used.
    """

    codes: Any
    scales: Any
    global_scale: float
    format: str
    axis: Axis
    block: int
    shape: tuple[int, ...]
    rule: str

    @property
    def element(self) -> str:
        """The element format's name."""
        fmt = find_format(self.format)
        return fmt.element if fmt.kind == "block" else fmt.name

    def expanded_scales(self) -> Array:
        """float32 scale of every element, the global scale included."""
        scales, _ = as_numpy(self.scales)
        product = (scales * np.float32(self.global_scale)).astype(np.float32)
        if not self.block:
            return np.broadcast_to(product, self.shape)
        assert isinstance(self.axis, int)  # sanity check
        repeated = np.repeat(product, self.block, axis=self.axis)
        index = [slice(None)] * len(self.shape)
        index[self.axis] = slice(0, self.shape[self.axis])
        return repeated[tuple(index)]

    def dequantize(self) -> Any:
        """float32 values in the tensor's shape, on the tensor's device."""
        codes, back = as_numpy(self.codes)
        values: Array = decode(codes, self.element)
        return back((values * self.expanded_scales()).astype(np.float32))

    def pack(self) -> bytes:
        """Codes as hardware stores them: C order, two 4-bit codes a byte, low first."""
        codes, _ = as_numpy(self.codes)
        flat = np.ascontiguousarray(codes).reshape(-1)
        if find_format(self.element).bits != 4:
            return flat.tobytes()
        padded = np.append(flat, np.uint8(0)) if flat.size % 2 else flat
        return (padded[0::2] | (padded[1::2] << 4)).astype(np.uint8).tobytes()


def quantize(
    x: Any,
    format: str,  # noqa: A002 - the field's word
    *,
    axis: Axis = -1,
    block: int | None = None,
    scale: Any = None,
    global_scale: float | None = None,
    rule: str | None = None,
    overflow: Overflow = "saturate",
) -> Quantized:
    """Quantize a tensor.

    An all-zero group gets the scale 1. Non-finite values do not take part in a scale;
    they are encoded as the element format can.

    Args:
        x: floating point values, NumPy or torch.
        format: an element or block format's name.
        axis: direction along which values share a scale.
        block: values that share a scale along the axis; None: the format's own.
        scale: given (static) scales instead of computed ones, broadcastable.
        global_scale: NVFP4: the tensor's scale instead of amax / (6 * 448).
        rule: scale rule; None: the format's default.
        overflow: see `encode`.

    Raises:
        NumericsError: unknown format or rule, axis out of range, bad block or scales.
    """
    fmt = find_format(format)
    array, back = as_numpy(x)
    values = floating(array).astype(np.float32, copy=False)
    where = _axis(axis, values.ndim)
    size = block if block is not None else fmt.block
    if size < 0 or (size and not isinstance(where, int)):
        raise NumericsError(f"block={size} with axis={axis}: blocks run along one axis")
    amax = _amax(values, where, size)
    if fmt.kind == "block":
        scales, tensor_scale, used = _block_scales(fmt, amax, rule, global_scale)
    else:
        scales, tensor_scale, used = _scales(fmt, amax), 1.0, rule or "amax"
    if scale is not None:
        scales = _given(scale, scales.shape)
    result = Quantized(
        codes=None,
        scales=scales,
        global_scale=tensor_scale,
        format=fmt.name,
        axis=where,
        block=size,
        shape=values.shape,
        rule=used,
    )
    element = fmt.element if fmt.kind == "block" else fmt.name
    with np.errstate(over="ignore", invalid="ignore"):
        ratio = values / result.expanded_scales()
    codes = encode(ratio, element, overflow=overflow)
    object.__setattr__(result, "codes", back(codes))
    object.__setattr__(result, "scales", back(scales))
    return result


def _axis(axis: Axis, ndim: int) -> int | tuple[int, ...]:
    """Axes counted from the front.

    Raises:
        NumericsError: out of range.
    """
    if axis is None:
        return tuple(range(ndim))
    given = (axis,) if isinstance(axis, int) else tuple(axis)
    for entry in given:
        if not -ndim <= entry < ndim:
            raise NumericsError(f"axis={axis}, but the tensor has {ndim} dimensions")
    counted = tuple(entry % ndim for entry in given)
    return counted[0] if isinstance(axis, int) else counted


def _amax(values: Array, axis: int | tuple[int, ...], block: int) -> Array:
    """Largest finite magnitude of each group, dimensions kept."""
    magnitude = np.abs(values)
    if not np.isfinite(magnitude).all():
        magnitude = np.where(np.isfinite(magnitude), magnitude, np.float32(0))
    if not block:
        return magnitude.max(axis=axis, keepdims=True, initial=0.0)
    assert isinstance(axis, int)  # sanity check
    length = values.shape[axis]
    starts = np.arange(0, length, block)
    if not starts.size:
        shape = list(values.shape)
        shape[axis] = 0
        return np.zeros(shape, np.float32)
    return np.maximum.reduceat(magnitude, starts, axis=axis)


def _scales(fmt: Format, amax: Array) -> Array:
    """amax / max of the format, in float32; 1 for a group of zeros."""
    largest = np.float32(fmt.max)
    scales = (amax / largest).astype(np.float32)
    # A subnormal amax may underflow to a zero scale, which would divide by zero.
    return np.where(scales > 0, scales, np.float32(1))


def _block_scales(
    fmt: Format, amax: Array, rule: str | None, global_scale: float | None
) -> tuple[Array, float, str]:
    """Scales as the block format stores them, decoded, with the tensor's scale."""
    element = element_format(fmt.element)
    used = rule or fmt.rule
    if fmt.scale == "fp8_e8m0":
        if used not in _MX_RULES:
            raise NumericsError(f"rule={used!r}, but should be one of {_MX_RULES}")
        return _mx_scales(element, amax, used), 1.0, used
    if used not in _NV_RULES:
        raise NumericsError(f"rule={used!r}, but should be one of {_NV_RULES}")
    scale_max = element_format(fmt.scale).max
    tensor = 1.0
    if global_scale is not None:
        if not (np.isfinite(global_scale) and global_scale > 0):
            raise NumericsError(f"global_scale={global_scale}, but should be positive")
        tensor = float(np.float32(global_scale))
    elif used == "amax":
        largest = float(amax.max(initial=0.0))
        tensor = float(np.float32(largest / (element.max * scale_max))) or 1.0
    wanted = (amax / np.float32(element.max) / np.float32(tensor)).astype(np.float32)
    scales: Array = decode(encode(wanted, fmt.scale), fmt.scale)
    # A block whose scale rounds to zero keeps the smallest one, so nothing divides by
    # zero and its values become zeros.
    smallest = np.float32(element_format(fmt.scale).min)
    return np.where(scales > 0, scales, smallest), tensor, used


def _mx_scales(element: Format, amax: Array, rule: str) -> Array:
    """Powers of two; E8M0 holds 2**-127 to 2**127. A block of zeros gets 2**-127."""
    safe = np.where(amax > 0, amax, np.float32(1)).astype(np.float64)
    fraction, exponent = np.frexp(safe)
    if rule == "floor":
        power = exponent - 1 - element.emax
    elif rule in ("ceil", "rceil"):
        fraction, exponent = np.frexp(safe / element.max)
        power = np.where(fraction == 0.5, exponent - 1, exponent)
    else:
        # amax rounded to the element's mantissa first: a carry moves the exponent.
        steps = 2.0 ** (element.mantissa + 1)
        carried = np.rint(fraction * steps) >= steps
        power = exponent - 1 + carried - element.emax
    power = np.where(amax > 0, np.clip(power, -127, 127), -127)
    return np.ldexp(1.0, power).astype(np.float32)


def _given(scale: Any, shape: tuple[int, ...]) -> Array:
    """Static scales, checked.

    Raises:
        NumericsError: not positive and finite, or of a shape that does not fit.
    """
    array, _ = as_numpy(scale)
    scales = np.asarray(array, dtype=np.float32)
    if not (np.isfinite(scales).all() and (scales > 0).all()):
        raise NumericsError("scales must be positive and finite")
    try:
        return np.broadcast_to(scales, shape).copy()
    except ValueError:
        raise NumericsError(
            f"scale has shape {scales.shape}, but should broadcast to {shape}"
        ) from None
