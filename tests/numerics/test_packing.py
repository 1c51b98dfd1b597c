"""Bytes as hardware reads them."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import pytest
import torch
from onnx import TensorProto, helper

from harness.numerics import pack, quantize, unpack
from harness.numerics.swizzle import swizzle_scales, unswizzle_scales


def test_the_first_code_is_the_low_nibble():
    """Codes 1, 2, 3 are the bytes 0x21 0x03."""
    assert pack(np.array([1, 2, 3], np.uint8), "fp4_e2m1").tolist() == [0x21, 0x03]


def test_fp4_as_onnx_packs():
    """ONNX's raw FP4 tensor holds the same bytes."""
    x = np.array([0.5, -6.0, 1.0, 3.0, -0.0, 2.0], np.float32)

    made = helper.make_tensor("x", TensorProto.FLOAT4E2M1, [6], x.tolist())
    ours = pack(x.astype(ml_dtypes.float4_e2m1fn).view(np.uint8), "fp4_e2m1")

    assert bytes(made.int32_data) == ours.tobytes()


def test_six_bits_fill_three_bytes():
    """Code i takes the bits 6 * i to 6 * i + 5 of the little-endian number."""
    codes = np.array([0b000001, 0b000010, 0b000100, 0b111111], np.uint8)

    number = sum(int(code) << (6 * i) for i, code in enumerate(codes))

    assert pack(codes, "fp6_e2m3").tobytes() == number.to_bytes(3, "little")


@pytest.mark.parametrize("length", [1, 2, 3, 4, 5, 7, 8, 33])
@pytest.mark.parametrize("name", ["fp4_e2m1", "fp6_e3m2", "fp8_e4m3", "fp16", "int4"])
def test_unpack_is_the_inverse(name, length):
    """Every length, also one that does not fill its last byte."""
    bits = {"fp4_e2m1": 4, "int4": 4, "fp6_e3m2": 6, "fp8_e4m3": 8, "fp16": 16}[name]
    kind = np.uint16 if bits == 16 else np.uint8
    codes = np.random.default_rng(0).integers(0, 1 << bits, (3, length)).astype(kind)

    assert np.array_equal(unpack(pack(codes, name), name, length), codes)


def test_swapped_nibbles_are_not_the_inverse():
    """The round trip above can fail."""
    codes = np.array([[1, 2]], np.uint8)
    swapped = (pack(codes, "int4") >> 4) | (pack(codes, "int4") << 4)

    assert not np.array_equal(unpack(swapped, "int4", 2), codes)


def test_a_quantized_tensor_packs_row_by_row():
    """Odd rows are filled up; the bytes are those of `pack`."""
    made = quantize(np.ones((2, 33), np.float32), "mxfp4")

    assert made.pack() == pack(made.codes, "mxfp4").tobytes()
    assert len(made.pack()) == 2 * 17


def test_tensors_stay_tensors():
    """Packing a torch tensor gives a torch tensor."""
    codes = torch.tensor([[1, 2]], dtype=torch.uint8)

    assert torch.equal(unpack(pack(codes, "int4"), "int4", 2), codes)


@pytest.mark.parametrize("shape", [(128, 4), (1, 1), (130, 5), (3, 200, 9)])
def test_swizzle_by_the_formula(shape):
    """Each scale lies where cuBLAS's documentation says, the padding is zero."""
    *lead, rows, columns = shape
    scales = np.random.default_rng(1).integers(1, 256, shape).astype(np.uint8)
    across = -(-columns // 4)
    wanted = np.zeros((*lead, -(-rows // 128) * across * 512), np.uint8)
    for r in range(rows):
        for c in range(columns):
            tile = r // 128 * across + c // 4
            inside = r % 128 % 32 * 16 + r % 128 // 32 * 4 + c % 4
            wanted[..., tile * 512 + inside] = scales[..., r, c]

    swizzled = swizzle_scales(scales)

    assert np.array_equal(swizzled, wanted)
    assert np.array_equal(unswizzle_scales(swizzled, rows, columns), scales)


def test_swizzled_is_not_linear():
    """Reading swizzled scales as linear ones is wrong where they differ."""
    scales = np.arange(512).astype(np.uint8).reshape(128, 4)

    assert not np.array_equal(swizzle_scales(scales), scales.reshape(-1))
