"""Quantized weights as compressed-tensors and ModelOpt name and store them.

Both pack two FP4 codes a byte, the first in the low nibble, along the input dimension.
They differ in the tensor's scale: compressed-tensors stores its reciprocal (a divisor,
`weight_global_scale`), ModelOpt the scale itself (a factor, `weight_scale_2`). Reading
one as the other is off by its square.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import ml_dtypes
import numpy as np

from harness.errors import NumericsError
from harness.numerics.arrays import Array, as_numpy
from harness.numerics.codec import decode, encode
from harness.numerics.formats import element_format, find_format
from harness.numerics.packing import pack, unpack
from harness.numerics.quantized import Quantized

_DTYPES: Final = {
    "fp8_e4m3": ml_dtypes.float8_e4m3fn,
    "fp8_e5m2": ml_dtypes.float8_e5m2,
    "int8": np.int8,
}
_KNOWN: Final = ("fp8_e4m3", "int8", "int4", "mxfp4", "mxfp8_e4m3", "nvfp4")


def to_compressed_tensors(quantized: Quantized) -> dict[str, Array]:
    """A weight's tensors, named as in a compressed-tensors checkpoint.

    Args:
        quantized: a weight (out, in): fp8_e4m3 or int8 by tensor, row or boxes; int4
            by row or groups; mxfp8, mxfp4 or nvfp4.

    Raises:
        NumericsError: a format that has no such layout, or not two dimensions.
    """
    _check(quantized, _KNOWN)
    fmt = find_format(quantized.format)
    codes, scales = as_numpy(quantized.codes)[0], as_numpy(quantized.scales)[0]
    if fmt.name == "int4":
        if quantized.zero_points is not None:
            raise NumericsError("only int4 without zero points is stored this way")
        shape = np.array(quantized.shape, np.int64)
        packed = _words((codes + 8) & 15)
        return {"weight_packed": packed, "weight_scale": scales, "weight_shape": shape}
    if fmt.name == "nvfp4":
        divisor = np.array([1 / np.float32(quantized.global_scale)], np.float32)
        return {
            "weight_packed": pack(codes, "nvfp4"),
            "weight_scale": encode(scales, "fp8_e4m3").view(ml_dtypes.float8_e4m3fn),
            "weight_global_scale": divisor,
        }
    if fmt.name == "mxfp4":
        stored = encode(scales, "fp8_e8m0")
        return {"weight_packed": pack(codes, "mxfp4"), "weight_scale": stored}
    stored = encode(scales, "fp8_e8m0") if fmt.scale else scales
    return {"weight": _typed(codes, quantized.element), "weight_scale": stored}


def from_compressed_tensors(
    tensors: Mapping[str, Any],
    format: str,  # noqa: A002
    *,
    block: int | tuple[int, int] | None = None,
) -> Quantized:
    """The inverse of `to_compressed_tensors`; integers may have zero points too.

    Args:
        tensors: name (the last part of it) -> array or tensor.
        format: our name of the format.
        block: values that share a scale, or boxes of them; None: read off the scales.

    Raises:
        NumericsError: a tensor is missing or does not fit.
    """
    arrays = {name: as_numpy(value)[0] for name, value in tensors.items()}
    name = find_format(format).name
    scales = _get(arrays, "weight_scale")
    if name in ("mxfp4", "nvfp4"):
        packed = _get(arrays, "weight_packed")
        codes = unpack(packed, name, packed.shape[-1] * 2)
        if name == "mxfp4":
            return _made(codes, decode(_bytes(scales), "fp8_e8m0"), name)
        divisor = np.float32(_get(arrays, "weight_global_scale").reshape(-1)[0])
        with np.errstate(divide="ignore"):
            scale = float(np.float32(1) / divisor)
        return _made(codes, decode(_bytes(scales), "fp8_e4m3"), name, scale)
    if name in ("int4", "int8"):
        codes, points = _integers(arrays, name)
        return _made(codes, scales, name, block=block, points=points)
    codes = _bytes(_get(arrays, "weight"))
    if find_format(name).scale:
        return _made(codes, decode(_bytes(scales), "fp8_e8m0"), name)
    return _made(codes, scales, name, block=block)


def _integers(arrays: Mapping[str, Array], name: str) -> tuple[Array, Array | None]:
    """Codes, two's complement, and zero points: as they are or packed in int32."""
    bits = find_format(name).bits
    points = arrays.get("weight_zero_point")
    if "weight_packed" not in arrays:
        codes = _bytes(_get(arrays, "weight"))
        return codes, None if points is None else points.astype(np.int32)
    middle = 1 << (bits - 1)
    shape = tuple(int(n) for n in _get(arrays, "weight_shape"))
    codes = (_unwords(_get(arrays, "weight_packed"), shape, bits) - middle) & (
        2 * middle - 1
    )
    if points is not None and points.dtype == np.int32:
        # Zero points lie packed along the rows, not along the groups.
        turned = (points.shape[1], shape[0])
        points = _unwords(np.ascontiguousarray(points.T), turned, bits).T
        points = points.astype(np.int32) - middle
    return codes, points


def to_modelopt(quantized: Quantized) -> dict[str, Array]:
    """A weight's tensors, named as in a checkpoint exported by ModelOpt.

    Args:
        quantized: a weight (out, in) in fp8_e4m3, mxfp8 or nvfp4.

    Raises:
        NumericsError: another format, or not two dimensions.
    """
    _check(quantized, ("fp8_e4m3", "mxfp8_e4m3", "nvfp4"))
    codes, scales = as_numpy(quantized.codes)[0], as_numpy(quantized.scales)[0]
    if quantized.format == "nvfp4":
        return {
            "weight": pack(codes, "nvfp4"),
            "weight_scale": encode(scales, "fp8_e4m3").view(ml_dtypes.float8_e4m3fn),
            "weight_scale_2": np.array(quantized.global_scale, np.float32),
        }
    weight = _typed(codes, quantized.element)
    if quantized.format == "mxfp8_e4m3":
        return {"weight": weight, "weight_scale": encode(scales, "fp8_e8m0")}
    flat = scales.reshape(()) if scales.size == 1 else scales.squeeze()
    return {"weight": weight, "weight_scale": flat}


def from_modelopt(
    tensors: Mapping[str, Any],
    format: str,  # noqa: A002
    *,
    block: int | tuple[int, int] | None = None,
) -> Quantized:
    """The inverse of `to_modelopt`.

    Args:
        tensors: name (the last part of it) -> array or tensor.
        format: our name of the format.
        block: values that share a scale, or boxes of them; None: read off the scales.

    Raises:
        NumericsError: a tensor is missing or does not fit.
    """
    arrays = {name: as_numpy(value)[0] for name, value in tensors.items()}
    name = find_format(format).name
    weight, scales = _get(arrays, "weight"), _get(arrays, "weight_scale")
    if name == "nvfp4":
        codes = unpack(weight, name, weight.shape[-1] * 2)
        tensor = float(np.float32(_get(arrays, "weight_scale_2").reshape(-1)[0]))
        return _made(codes, decode(_bytes(scales), "fp8_e4m3"), name, tensor)
    if name == "mxfp8_e4m3":
        return _made(_bytes(weight), decode(_bytes(scales), "fp8_e8m0"), name)
    if scales.ndim < 2:
        scales = scales.reshape(-1, 1)
    return _made(_bytes(weight), scales, name, block=block)


def from_quark(tensors: Mapping[str, Any], format: str) -> Quantized:  # noqa: A002
    """A weight as AMD Quark exports it: packed in `weight`, E8M0 scales as codes.

    Args:
        tensors: name (the last part of it) -> array or tensor.
        format: our name of the format.

    Raises:
        NumericsError: a tensor is missing or does not fit.
    """
    arrays = {name: as_numpy(value)[0] for name, value in tensors.items()}
    fmt = find_format(format)
    weight, scales = _get(arrays, "weight"), _get(arrays, "weight_scale")
    bits = element_format(fmt.element).bits if fmt.element else fmt.bits
    codes = unpack(_bytes(weight), fmt.name, weight.shape[-1] * 8 // bits)
    if fmt.scale == "fp8_e8m0":
        return _made(codes, decode(_bytes(scales), "fp8_e8m0"), fmt.name)
    points = arrays.get("weight_zero_point")
    if points is not None:
        points = points.astype(np.int32).reshape(-1, 1)
    return _made(codes, scales.astype(np.float32), fmt.name, points=points)


def _check(quantized: Quantized, known: tuple[str, ...]) -> None:
    if quantized.format not in known or len(quantized.shape) != 2:
        raise NumericsError(
            f"format={quantized.format!r} and shape={quantized.shape}, but such "
            f"checkpoints hold weights (out, in) in one of {known}"
        )


def _get(arrays: Mapping[str, Array], name: str) -> Array:
    if name not in arrays:
        raise NumericsError(f"{name!r} is missing; there are {sorted(arrays)}")
    return arrays[name]


def _made(
    codes: Array,
    scales: Array,
    name: str,
    global_scale: float = 1.0,
    *,
    block: int | tuple[int, int] | None = None,
    points: Array | None = None,
) -> Quantized:
    """A weight whose granularity is given or read off the shapes of its scales."""
    if codes.ndim != 2:
        raise NumericsError(f"a weight of shape={codes.shape} has not two dimensions")
    fmt = find_format(name)
    scales = np.asarray(scales, np.float32)
    if scales.ndim != 2:
        scales = scales.reshape(1, 1) if scales.size == 1 else scales.reshape(-1, 1)
    rows, columns = codes.shape
    down, across = scales.shape
    axis: int | tuple[int, ...] = 1
    size: int | tuple[int, int] = block or fmt.block
    if isinstance(size, tuple):
        axis = (0, 1)
    elif down == 1 and across == 1 and rows > 1:
        axis, size = (0, 1), 0
    elif block is None and not size:
        size = -(-columns // across) if across > 1 else 0
        if down not in (1, rows) or (down == 1 and across > 1 and rows > 1):
            # Boxes have powers of two as sizes; the smallest that gives this many.
            axis, size = (0, 1), (_box(rows, down), _box(columns, across))
    made = Quantized(
        codes=codes,
        scales=scales,
        global_scale=global_scale,
        format=name,
        axis=axis,
        block=size,
        shape=(rows, columns),
        rule="stored",
        zero_points=None if points is None else np.ascontiguousarray(points),
    )
    if made.grid.scales_shape != scales.shape:
        raise NumericsError(
            f"scales have shape={scales.shape}, but {name} of {codes.shape} has "
            f"{made.grid.scales_shape}"
        )
    return made


def _box(size: int, count: int) -> int:
    side = 1
    while -(-size // side) > count:
        side *= 2
    return side


def _typed(codes: Array, element: str) -> Array:
    return np.ascontiguousarray(codes).view(_DTYPES[element_format(element).name])


def _bytes(array: Array) -> Array:
    return np.ascontiguousarray(array).view(np.uint8)


def _words(codes: Array) -> Array:
    """Eight 4-bit codes an int32, the first in the lowest bits."""
    short = -codes.shape[-1] % 8
    padded = np.pad(codes, [(0, 0), (0, short)])
    packed: Array = np.ascontiguousarray(pack(padded, "uint4"))
    return packed.view("<i4").astype(np.int32, copy=False)


def _unwords(words: Array, shape: tuple[int, ...], bits: int) -> Array:
    """Codes of words, the first in the lowest bits, with the offset they carry."""
    data = np.ascontiguousarray(words.astype("<i4", copy=False)).view(np.uint8)
    if data.shape[-1] * 8 // bits < shape[-1] or len(data) != shape[0]:
        raise NumericsError(
            f"packed words have shape={words.shape}, too few for {shape} of {bits} bits"
        )
    codes: Array = unpack(data, f"uint{bits}", data.shape[-1] * 8 // bits)
    return np.ascontiguousarray(codes[:, : shape[-1]])
