"""Weights in low precision inside an ONNX graph, with the nodes that decode them."""

from __future__ import annotations

from typing import Any, Final

import numpy as np

from harness.errors import UnsupportedError
from harness.models.types import Operator
from harness.numerics import FORMATS, Format, Quantized, encode, find_format
from harness.numerics.layouts import Q4K
from harness.schemes.apply import block_size, quantize_weight
from harness.schemes.onnx_activations import FP8_TYPES
from harness.schemes.onnx_nodes import Nodes
from harness.schemes.types import Scheme

Array = np.ndarray[Any, np.dtype[Any]]

_FLOAT: Final = 1
_INT32: Final = 6


def store_weight(
    nodes: Nodes, operator: Operator, scheme: Scheme, *, transposed: bool
) -> str:
    """Initializers and nodes for a weight; returns the decoded tensor's name.

    Args:
        nodes: where they are added.
        operator: whose weight it is.
        scheme: what it becomes.
        transposed: whether the consumer wants (in, out).

    Raises:
        UnsupportedError: a format that these nodes do not express.
    """
    quantized = quantize_weight(operator, scheme)
    _check_stored(quantized, operator)
    tensor = scheme.weights
    assert tensor is not None  # sanity check
    if tensor.granularity == "block":
        decoded = _blocks(nodes, quantized, block_size(tensor))
        return nodes.add("Transpose", [decoded], perm=[1, 0]) if transposed else decoded
    return _scaled(nodes, quantized, transposed)


def _check_stored(quantized: Quantized, operator: Operator) -> None:
    """Refuse what only a file has: zero points, boxes and super-blocks.

    Raises:
        UnsupportedError: the weight has one of them.
    """
    if quantized.zero_points is not None:
        raise UnsupportedError(
            f"{quantized.format} weights with zero points in ONNX operators",
            operator=operator.name,
        )
    if isinstance(quantized, Q4K):
        raise UnsupportedError("Q4_K weights in ONNX operators", operator=operator.name)
    if isinstance(quantized.block, tuple):
        raise UnsupportedError(
            f"{quantized.format} weights in boxes of {quantized.block} in ONNX "
            "operators",
            operator=operator.name,
        )


def _scaled(nodes: Nodes, quantized: Quantized, transposed: bool) -> str:
    """One scale a channel or a tensor: DequantizeLinear."""
    codes = quantized.codes.T if transposed else quantized.codes
    codes = np.ascontiguousarray(codes)
    scales = quantized.scales.reshape(-1)
    tensor = _codes(nodes, quantized.format, codes)
    scale = scales if scales.size > 1 else scales.reshape(())
    by = nodes.constant(scale.astype(np.float32), "weight_scale")
    axis = codes.ndim - 1 if transposed else 0
    return nodes.add("DequantizeLinear", [tensor, by], axis=axis)


def _codes(nodes: Nodes, fmt: str, codes: Array) -> str:
    if fmt in FP8_TYPES:
        return nodes.raw(codes.tobytes(), FP8_TYPES[fmt], codes.shape, "weight_codes")
    if fmt == "int8":
        return nodes.constant(codes.view(np.int8), "weight_codes")
    raise UnsupportedError(f"{fmt} weights with one scale a channel in ONNX operators")


def _blocks(nodes: Nodes, quantized: Quantized, size: int) -> str:
    """(out, in, ...) split into blocks of `in`, decoded, scaled and joined again."""
    out, length, *rest = quantized.shape
    # A block longer than the axis is the whole axis; two codes share a byte.
    size = min(size, length + length % 2)
    count = -(-length // size)
    padding = [(0, 0), (0, count * size - length), *[(0, 0)] * len(rest)]
    codes = np.pad(quantized.codes, padding)
    # The block's elements last, so that two neighbours share a byte.
    split = np.moveaxis(codes.reshape(out, count, size, *rest), 2, -1)
    values = _decode(nodes, quantized.element, np.ascontiguousarray(split))
    by = _block_scales(nodes, quantized)
    scaled = nodes.add("Mul", [values, by])
    if rest:
        order = [0, 1, 2 + len(rest), *range(2, 2 + len(rest))]
        scaled = nodes.add("Transpose", [scaled], perm=order)
    shape = nodes.constant(np.array([out, count * size, *rest], np.int64), "shape")
    joined = nodes.add("Reshape", [scaled, shape])
    if count * size == length:
        return joined
    cut = [nodes.constant(np.array([n], np.int64), "cut") for n in (0, length, 1)]
    return nodes.add("Slice", [joined, *cut])


def _block_scales(nodes: Nodes, quantized: Quantized) -> str:
    """Scales as the format stores them, decoded to float32.

    E4M3 (times the tensor's float32 scale) by a cast; E8M0 by a table, because its
    ONNX type came later than the opset; groups of integers have float32 scales.
    """
    stored = find_format(quantized.format).scale
    scales = np.ascontiguousarray(quantized.scales[..., None])
    if not stored:
        return nodes.constant(scales, "weight_scale")
    if stored == "fp8_e8m0":
        codes = nodes.constant(encode(scales, stored), "weight_scale")
        index = nodes.add("Cast", [codes], to=_INT32)
        table = FORMATS[stored].decoded.astype(np.float32)
        return nodes.add("Gather", [nodes.constant(table, "scale_table"), index])
    data = encode(scales, stored).tobytes()
    code = nodes.raw(data, FP8_TYPES[stored], scales.shape, "weight_scale")
    scale = nodes.add("Cast", [code], to=_FLOAT)
    tensor = np.array(quantized.global_scale, dtype=np.float32)
    return nodes.add("Mul", [scale, nodes.constant(tensor, "weight_tensor_scale")])


def _decode(nodes: Nodes, element: str, codes: Array) -> str:
    """Values of codes: a cast for FP8; else a table, 4-bit codes packed two a byte."""
    if element in FP8_TYPES:
        stored = nodes.raw(
            codes.tobytes(), FP8_TYPES[element], codes.shape, "weight_codes"
        )
        return nodes.add("Cast", [stored], to=_FLOAT)
    fmt = FORMATS[element]
    if fmt.bits == 8 and fmt.kind == "float":
        stored = nodes.constant(codes.astype(np.uint8), "weight_codes")
        index = nodes.add("Cast", [stored], to=_INT32)
        return nodes.add("Gather", [_table(nodes, fmt), index])
    if fmt.bits != 4 or codes.shape[-1] % 2:
        raise UnsupportedError(f"{element} weights in blocks in ONNX operators")
    packed = (codes[..., 0::2] | (codes[..., 1::2] << 4)).astype(np.uint8)
    stored = nodes.constant(np.ascontiguousarray(packed), "weight_codes")
    low = nodes.add(
        "BitwiseAnd", [stored, nodes.constant(np.array(15, np.uint8), "mask")]
    )
    four = nodes.constant(np.array(4, np.uint8), "four")
    high = nodes.add("BitShift", [stored, four], direction="RIGHT")
    last = nodes.constant(np.array([-1], np.int64), "axis")
    pair = [nodes.add("Unsqueeze", [half, last]) for half in (low, high)]
    both = nodes.add("Concat", pair, axis=-1)
    shape = nodes.constant(np.array(codes.shape, np.int64), "shape")
    index = nodes.add("Cast", [nodes.add("Reshape", [both, shape])], to=_INT32)
    return nodes.add("Gather", [_table(nodes, fmt), index])


def _table(nodes: Nodes, fmt: Format) -> str:
    return nodes.constant(fmt.decoded.astype(np.float32), "table")


def int4_matmul(
    nodes: Nodes, operator: Operator, scheme: Scheme, x: str, y: str
) -> None:
    """`com.microsoft.MatMulNBits`: 4-bit weights, arithmetic in float32.

    `accuracy_level` 1 is float32; left out, ONNX Runtime may quantize the input to
    INT8, which the scheme does not say.
    """
    quantized = quantize_weight(operator, scheme)
    _check_stored(quantized, operator)
    assert scheme.weights is not None  # sanity check
    size = block_size(scheme.weights)
    rows, length = quantized.shape
    count = -(-length // size)
    signed = quantized.codes.astype(np.int16)
    # Two's complement to an offset of 8, which is the operator's default zero point.
    offset = np.where(signed > 7, signed - 16, signed) + 8
    padded = np.pad(
        offset, [(0, 0), (0, count * size - length)], constant_values=8
    ).astype(np.uint8)
    pairs = padded.reshape(rows, count, size)
    packed = np.ascontiguousarray(pairs[..., 0::2] | (pairs[..., 1::2] << 4))
    nodes.add(
        "MatMulNBits",
        [
            x,
            nodes.constant(packed, "weight_codes"),
            nodes.constant(quantized.scales.reshape(-1), "weight_scale"),
        ],
        output=y,
        domain="com.microsoft",
        K=length,
        N=rows,
        bits=4,
        block_size=size,
        accuracy_level=1,
    )
