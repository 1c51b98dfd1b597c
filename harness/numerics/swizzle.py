"""The order in which block scales lie in memory for NVIDIA's block-scaled GEMMs.

cuBLAS ("1D block scaling factors layout") and CUTLASS read scales in tiles of 128 rows
by 4 columns, 512 bytes each. Within a tile the scale of row r and column c lies at
(r % 32) * 16 + (r // 32) * 4 + c; tiles follow each other along the columns, then the
rows. What does not fill a tile is padded with zero codes.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from harness.errors import NumericsError
from harness.numerics.arrays import Array, as_numpy


def swizzle_scales(scales: Any) -> Any:
    """Scale codes in the 128 x 4 tile order.

    Args:
        scales: (..., rows, columns) of one-byte codes; each leading index is padded by
            itself.

    Returns:
        (..., padded rows * padded columns), the same dtype, kind and device.

    Raises:
        NumericsError: fewer than two dimensions, or not one byte an entry.
    """
    array, back = as_numpy(scales)
    _check(array, 2)
    rows, columns = array.shape[-2:]
    pad = [(0, 0)] * (array.ndim - 2) + [(0, -rows % 128), (0, -columns % 4)]
    lead = array.shape[:-2]
    padded = np.pad(array.view(np.uint8), pad).view(array.dtype)
    down, across = padded.shape[-2] // 128, padded.shape[-1] // 4
    # (tile row, quarter, row in quarter, tile column, column) -> tile order.
    tiles = padded.reshape(*lead, down, 4, 32, across, 4)
    n = len(lead)
    order = (*range(n), n, n + 3, n + 2, n + 1, n + 4)
    return back(np.ascontiguousarray(tiles.transpose(order)).reshape(*lead, -1))


def unswizzle_scales(scales: Any, rows: int, columns: int) -> Any:
    """The inverse of `swizzle_scales`, without the padding.

    Args:
        scales: (..., padded rows * padded columns) of one-byte codes.
        rows: rows of scales before the padding.
        columns: columns of scales before the padding.

    Returns:
        (..., rows, columns).

    Raises:
        NumericsError: the number of codes is not that of the padded tiles.
    """
    array, back = as_numpy(scales)
    _check(array, 1)
    down, across = -(-rows // 128), -(-columns // 4)
    if array.shape[-1] != down * across * 512:
        raise NumericsError(
            f"{array.shape[-1]} swizzled scales, but {rows} x {columns} scales fill "
            f"{down} x {across} tiles of 512"
        )
    lead = array.shape[:-1]
    tiles = array.reshape(*lead, down, across, 32, 4, 4)
    n = len(lead)
    order = (*range(n), n, n + 3, n + 2, n + 1, n + 4)
    flat = np.ascontiguousarray(tiles.transpose(order))
    whole = flat.reshape(*lead, down * 128, across * 4)
    return back(np.ascontiguousarray(whole[..., :rows, :columns]))


def _check(array: Array, dimensions: int) -> None:
    if array.ndim < dimensions or array.dtype.itemsize != 1:
        raise NumericsError(
            f"scales have shape={array.shape} and dtype={array.dtype}, but should have "
            f"at least {dimensions} dimensions of one-byte codes"
        )
