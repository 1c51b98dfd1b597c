"""GGUF's blocks: Q8_0, Q4_0, Q4_K, MXFP4 and NVFP4, read and written.

Layouts as in ggml's `ggml-common.h`. In Q4_0, MXFP4 and NVFP4 a byte's low nibble is an
element of the first half of the block (NVFP4: of its 16 elements) and the high nibble
the one half a block later, unlike hardware's packing of neighbours. `gguf_k` has Q4_K.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from harness.errors import NumericsError
from harness.numerics.arrays import Array, as_numpy
from harness.numerics.codec import decode, encode
from harness.numerics.layouts.gguf_k import Q4K, read_q4k, write_q4k
from harness.numerics.quantized import Quantized


@dataclass(frozen=True)
class GgufType:
    """A block type of GGUF."""

    #: Elements of a block.
    block: int
    #: Bytes of a block.
    size: int
    #: Our format of the elements.
    format: str
    #: Elements that share a scale.
    group: int


#: Types that files hold.
GGUF_TYPES: Final[dict[str, GgufType]] = {
    "Q8_0": GgufType(32, 34, "int8", 32),
    "Q4_0": GgufType(32, 18, "int4", 32),
    "Q4_K": GgufType(256, 144, "uint4", 32),
    "MXFP4": GgufType(32, 17, "mxfp4", 32),
    "NVFP4": GgufType(64, 36, "nvfp4", 16),
}
#: Types that kernels make of inputs, and no file holds.
INPUT_TYPES: Final[dict[str, GgufType]] = {"Q8_K": GgufType(256, 292, "int8", 256)}


def read_gguf(data: Any, kind: str) -> Quantized:
    """Codes and scales of GGUF blocks.

    Args:
        data: uint8, (..., bytes of a row), or `bytes`: one row.
        kind: a name of `GGUF_TYPES`.

    Returns:
        `Quantized` along the last axis, of Q4_K a `Q4K`; `dequantize()` gives the
        values.
        NVFP4's scales have no sign: ggml reads the codes 0 and 127 as zero.

    Raises:
        NumericsError: unknown type, or bytes that are not whole blocks.
    """
    made = _type(kind)
    if isinstance(data, (bytes, bytearray, memoryview)):
        data = np.frombuffer(data, np.uint8)
    array, _ = as_numpy(data)
    if array.dtype != np.uint8 or array.ndim == 0 or array.shape[-1] % made.size:
        raise NumericsError(
            f"{kind} data has dtype={array.dtype} and shape={array.shape}, but should "
            f"be uint8, each row whole blocks of {made.size} bytes"
        )
    blocks = array.reshape(*array.shape[:-1], -1, made.size)
    return _READERS[kind](np.ascontiguousarray(blocks))


def write_gguf(quantized: Quantized, kind: str) -> Array:
    """GGUF blocks of codes and scales.

    Args:
        quantized: what `read_gguf` gives, or `quantize` along the last axis with the
            type's block; rows of whole blocks. float32 scales are rounded to float16.
        kind: a name of `GGUF_TYPES`.

    Returns:
        uint8, (..., bytes of a row).

    Raises:
        NumericsError: the tensor's format, blocks or tensor scale are not the type's,
            or a scale is not a number of float16.
    """
    made = _type(kind)
    if isinstance(quantized, Q4K):
        if kind != "Q4_K":
            raise NumericsError(f"a Q4K cannot be written as {kind}")
        return _rows(write_q4k(quantized), quantized.shape)
    if kind == "Q4_K":
        raise NumericsError("Q4_K is written from a Q4K; see quantize_gguf")
    codes, scales = _checked(quantized, kind, made)
    if kind in ("Q8_0", "Q4_0"):
        with np.errstate(over="ignore"):
            stored = scales.astype(np.float16)
        if not np.isfinite(stored).all():
            raise NumericsError(f"a scale of {kind} is beyond float16")
        head = stored.astype("<f2").view(np.uint8)
        if kind == "Q4_0":
            codes = (codes + 8) & 15
    else:
        fmt = "fp8_e8m0" if kind == "MXFP4" else "fp8_e4m3"
        head = encode(scales.astype(np.float32), fmt)
    body = codes if kind == "Q8_0" else _halves(codes, made.group)
    blocks = np.concatenate([head, body.reshape(*head.shape[:-1], -1)], axis=-1)
    return _rows(blocks, quantized.shape)


def _type(kind: str) -> GgufType:
    if kind not in GGUF_TYPES:
        raise NumericsError(
            f"GGUF type {kind!r}, but known are {', '.join(GGUF_TYPES)}"
        )
    return GGUF_TYPES[kind]


def _rows(blocks: Array, shape: tuple[int, ...]) -> Array:
    return np.ascontiguousarray(blocks).reshape(*shape[:-1], -1)


def _checked(quantized: Quantized, kind: str, made: GgufType) -> tuple[Array, Array]:
    """Codes (..., blocks, block) and scales (..., blocks, groups)."""
    last = len(quantized.shape) - 1
    fits = (
        quantized.format == made.format
        and quantized.block == made.group
        and quantized.axis == last
        and quantized.zero_points is None
        and quantized.global_scale == 1.0
        and last >= 0
        and quantized.shape[-1] % made.block == 0
    )
    if not fits:
        raise NumericsError(
            f"format={quantized.format!r}, block={quantized.block}, "
            f"axis={quantized.axis}, shape={quantized.shape} and "
            f"global_scale={quantized.global_scale}, but {kind} takes "
            f"{made.format!r} in blocks of {made.group} along the last axis, rows of "
            f"whole {made.block}, no zero points and no tensor scale"
        )
    codes = as_numpy(quantized.codes)[0].reshape(*quantized.shape[:-1], -1, made.block)
    scales = as_numpy(quantized.scales)[0]
    return codes, scales.reshape(*quantized.shape[:-1], -1, made.block // made.group)


def _halves(codes: Array, group: int) -> Array:
    """Two codes a byte, half a group apart."""
    pairs = codes.reshape(*codes.shape[:-1], -1, 2, group // 2)
    packed: Array = pairs[..., 0, :] | (pairs[..., 1, :] << 4)
    return packed.reshape(*codes.shape[:-1], -1)


def _unhalve(packed: Array, group: int) -> Array:
    pairs = packed.reshape(*packed.shape[:-1], -1, 1, group // 2)
    codes = np.concatenate([pairs & 15, pairs >> 4], axis=-2)
    return codes.reshape(*packed.shape[:-1], -1)


def _quantized(codes: Array, scales: Array, kind: str) -> Quantized:
    made = GGUF_TYPES[kind]
    shape = (*codes.shape[:-2], codes.shape[-2] * codes.shape[-1])
    return Quantized(
        codes=np.ascontiguousarray(codes).reshape(shape),
        scales=scales.astype(np.float32).reshape(*shape[:-1], -1),
        global_scale=1.0,
        format=made.format,
        axis=len(shape) - 1,
        block=made.group,
        shape=shape,
        rule=f"gguf {kind}",
    )


def _read_q8_0(blocks: Array) -> Quantized:
    return _quantized(blocks[..., 2:], _halffloat(blocks[..., :2]), "Q8_0")


def _read_q4_0(blocks: Array) -> Quantized:
    codes = (_unhalve(blocks[..., 2:], 32) - 8) & 15
    return _quantized(codes, _halffloat(blocks[..., :2]), "Q4_0")


def _read_mxfp4(blocks: Array) -> Quantized:
    scales = decode(blocks[..., :1], "fp8_e8m0")
    return _quantized(_unhalve(blocks[..., 1:], 32), scales, "MXFP4")


def _read_nvfp4(blocks: Array) -> Quantized:
    scales = decode(blocks[..., :4] & 127, "fp8_e4m3")
    scales = np.where(blocks[..., :4] == 127, np.float32(0), scales)
    return _quantized(_unhalve(blocks[..., 4:], 16), scales, "NVFP4")


def _halffloat(stored: Array) -> Array:
    """Numbers of float16 from two bytes each, the last axis one long."""
    return np.ascontiguousarray(stored).view("<f2")


_READERS: Final[dict[str, Callable[[Array], Quantized]]] = {
    "Q8_0": _read_q8_0,
    "Q4_0": _read_q4_0,
    "Q4_K": read_q4k,
    "MXFP4": _read_mxfp4,
    "NVFP4": _read_nvfp4,
}
