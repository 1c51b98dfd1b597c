"""What cannot be quantized says so: what was given, and what is possible."""

from __future__ import annotations

import numpy as np
import pytest

from harness.errors import NumericsError
from harness.numerics import decode, encode, find_format, pack, quantize, unpack
from harness.numerics.swizzle import swizzle_scales, unswizzle_scales

X = np.ones((4, 8), np.float32)


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"axis": 2}, r"axis=2, but the tensor has 2 dimensions"),
        ({"axis": (0, 0)}, r"names a dimension twice"),
        ({"block": -1}, r"block=-1, but should be positive"),
        ({"block": (0, 4)}, r"two positive sizes"),
        ({"block": 4, "axis": None}, r"blocks run along one"),
        ({"scale": -1.0}, r"positive and finite"),
        ({"scale": float("nan")}, r"positive and finite"),
        (
            {"scale": np.ones((3, 1))},
            r"shape \(3, 1\), but should broadcast to \(4, 1\)",
        ),
        ({"rule": "floor"}, r"rule='floor', but a rule of fp8_e4m3 should be one of"),
        ({"rounding": "nearest_evn"}, r"did you mean 'nearest_even'"),
        ({"rounding": "stochastic"}, r"needs a seed"),
        ({"seed": 1}, r"takes no seed"),
        ({"overflow": "wrap"}, r"overflow='wrap', but should be one of"),
        ({"zero_point": 1}, r"no zero points; only integers"),
        ({"symmetric": False}, r"no zero points; only integers"),
        ({"global_scale": 0.0}, r"global_scale=0.0, but should be positive"),
    ],
)
def test_options(options, text):
    """Each wrong option is named with what it should have been."""
    with pytest.raises(NumericsError, match=text):
        quantize(X, "fp8_e4m3", **options)


def test_unknown_formats_are_guessed():
    """The format that was probably meant is named."""
    with pytest.raises(NumericsError, match="did you mean 'fp8_e4m3'"):
        encode(X, "fp8_e4m4")
    with pytest.raises(NumericsError, match="unknown format 7"):
        find_format(7)


def test_block_formats_are_not_elements():
    """A block format cannot encode by itself."""
    with pytest.raises(NumericsError, match=r"use quantize\(\), or its element"):
        encode(X, "mxfp4")


@pytest.mark.parametrize("x", [np.ones(3, np.int32), [1, 2], np.array([True])])
def test_integers_are_not_values(x):
    """Whole numbers are refused rather than cast behind the caller's back."""
    with pytest.raises(NumericsError, match="should be floating point"):
        encode(x, "fp8_e4m3")


@pytest.mark.parametrize("x", [np.array([object()]), np.array(["1.0"])])
def test_objects_are_refused(x):
    """Arrays of objects and strings are refused."""
    with pytest.raises(NumericsError, match="should be numeric"):
        encode(x, "fp8_e4m3")


def test_nan_and_inf_are_not_asked_of_fp4():
    """A format with neither NaN nor Inf can only saturate."""
    with pytest.raises(NumericsError, match="neither NaN nor Inf; saturate"):
        encode(X, "fp4_e2m1", overflow="nan")


def test_zero_points_need_scales():
    """Zero points without scales, and the reverse when asymmetric."""
    with pytest.raises(NumericsError, match="give both or neither"):
        quantize(X, "int8", zero_point=0)
    with pytest.raises(NumericsError, match="needs a zero_point"):
        quantize(X, "int8", scale=1.0, symmetric=False)
    with pytest.raises(NumericsError, match=r"should lie in \[0, 15\]"):
        quantize(X, "uint4", scale=1.0, zero_point=16)
    with pytest.raises(NumericsError, match="should be whole"):
        quantize(X, "uint4", scale=1.0, zero_point=1.5)


def test_float64_beyond_float32():
    """A group whose scale leaves float32 is refused; its neighbours' size is not."""
    with pytest.raises(NumericsError, match=r"amax=1e\+300 needs a scale beyond"):
        quantize(np.array([[1e300]]), "int8")
    saturated = quantize(np.array([[1e300]]), "mxfp4")
    assert (saturated.scales.item(), saturated.codes.item()) == (2.0**127, 7)
    # 6 * 2**127 is beyond float32.
    assert saturated.dequantize().item() == np.inf


def test_a_scalar_has_no_last_axis():
    """A tensor without dimensions needs axis=None."""
    with pytest.raises(NumericsError, match="give axis=None"):
        quantize(np.float32(3), "int8")
    assert quantize(np.float32(3), "int8", axis=None).dequantize() == 3


def test_a_block_longer_than_the_axis_is_the_axis():
    """Defined: one smaller block."""
    assert quantize(X, "int4", block=100).scales.shape == (4, 1)


def test_strides_byte_order_and_scalars_do_not_matter():
    """Views, big-endian arrays and reversed axes give what their copies give."""
    x = np.random.default_rng(0).standard_normal((6, 40)).astype(np.float32)

    for view in (x[::-1, ::2], x.T, x.astype(">f4")):
        copied = np.ascontiguousarray(view, dtype=np.float32)
        assert np.array_equal(encode(view, "fp8_e4m3"), encode(copied, "fp8_e4m3"))
        made = quantize(view, "mxfp4")
        assert np.array_equal(made.codes, quantize(copied, "mxfp4").codes)
        assert np.array_equal(made.dequantize(), quantize(copied, "mxfp4").dequantize())


def test_packing():
    """Lengths and types that do not fit are refused."""
    with pytest.raises(NumericsError, match="code 16 does not fit 4 bits"):
        pack(np.array([16], np.uint8), "mxfp4")
    with pytest.raises(NumericsError, match="should be 3 bytes"):
        unpack(b"ab", "fp4_e2m1", 5)
    with pytest.raises(NumericsError, match="should be uint8"):
        decode(np.array([0.5]), "fp4_e2m1")
    with pytest.raises(NumericsError, match="one-byte codes"):
        swizzle_scales(np.ones((4, 4), np.float32))
    with pytest.raises(NumericsError, match="tiles of 512"):
        unswizzle_scales(np.zeros(100, np.uint8), 4, 4)
