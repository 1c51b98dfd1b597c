"""Codes as hardware and files store them: nibbles, six bits, swizzled scale tiles."""

from __future__ import annotations

from typing import Any

import numpy as np

from harness.errors import NumericsError
from harness.numerics.arrays import as_numpy, integer_codes
from harness.numerics.formats import element_format, find_format

Array = np.ndarray[Any, np.dtype[Any]]


def _bits(format: str) -> int:  # noqa: A002 - the field's word
    fmt = find_format(format)
    return element_format(fmt.element).bits if fmt.element else fmt.bits


def pack(codes: Any, format: str) -> Any:  # noqa: A002 - the field's word
    """Bytes of codes, packed along the last axis.

    Two 4-bit codes share a byte, the first in the low nibble; four 6-bit codes share
    three bytes, the first in the lowest bits. A row whose length is odd (or not a
    multiple of four) is filled with zero codes.

    Args:
        codes: one code an entry, at least one dimension.
        format: an element or block format's name.

    Returns:
        uint8, the last axis as many bytes as a row needs; same kind and device.

    Raises:
        NumericsError: codes that do not fit the format's bits.
    """
    bits = _bits(format)
    array, back = as_numpy(codes)
    array = np.ascontiguousarray(integer_codes(np.atleast_1d(array), bits))
    if bits == 16:
        return back(array.astype("<u2", copy=False).view(np.uint8))
    if bits == 8:
        return back(array)
    group = 2 if bits == 4 else 4
    short = -array.shape[-1] % group
    if short:
        array = np.pad(array, [(0, 0)] * (array.ndim - 1) + [(0, short)])
    if bits == 4:
        return back(array[..., 0::2] | (array[..., 1::2] << 4))
    a, b, c, d = (array[..., i::4] for i in range(4))
    three = np.stack([a | (b << 6), (b >> 2) | (c << 4), (c >> 4) | (d << 2)], axis=-1)
    size = array.shape[-1] // 4 * 3
    return back(three.reshape(*array.shape[:-1], size))


def unpack(data: Any, format: str, length: int) -> Any:  # noqa: A002
    """Codes of packed bytes: the inverse of `pack`.

    Args:
        data: uint8, packed along the last axis (or `bytes`: one row).
        format: an element or block format's name.
        length: codes in a row; what fills the last byte is dropped.

    Returns:
        uint8 codes (uint16 for 16-bit formats), the last axis `length` long.

    Raises:
        NumericsError: the number of bytes of a row does not fit `length`.
    """
    bits = _bits(format)
    if isinstance(data, (bytes, bytearray, memoryview)):
        data = np.frombuffer(data, np.uint8)
    array, back = as_numpy(data)
    array = np.ascontiguousarray(array)
    wanted = {4: -(-length // 2), 6: -(-length // 4) * 3, 8: length, 16: 2 * length}
    if array.dtype != np.uint8 or array.ndim == 0 or array.shape[-1] != wanted[bits]:
        raise NumericsError(
            f"data has dtype={array.dtype} and shape={array.shape}, but {length} codes "
            f"of {format} should be {wanted[bits]} bytes of uint8 a row"
        )
    if bits == 16:
        return back(array.view("<u2").astype(np.uint16, copy=False))
    if bits == 8:
        return back(array)
    if bits == 4:
        parts = [array & 15, array >> 4]
    else:
        x, y, z = (array[..., i::3] for i in range(3))
        parts = [x & 63, ((x >> 6) | (y << 2)) & 63, ((y >> 4) | (z << 4)) & 63, z >> 2]
    size = array.shape[-1] * 8 // bits
    codes = np.stack(parts, axis=-1).reshape(*array.shape[:-1], size)
    return back(np.ascontiguousarray(codes[..., :length]))
