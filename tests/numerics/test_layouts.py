"""GGUF, compressed-tensors and ModelOpt layouts."""

from __future__ import annotations

import gguf
import numpy as np
import pytest
from gguf import GGMLQuantizationType

from harness.errors import NumericsError
from harness.numerics import FORMATS, quantize
from harness.numerics.layouts import (
    GGUF_TYPES,
    from_compressed_tensors,
    from_modelopt,
    quantize_gguf,
    read_gguf,
    to_compressed_tensors,
    to_modelopt,
    write_gguf,
)


def rows():
    """Normal rows, some with zero blocks, tiny and huge values."""
    x = np.random.default_rng(0).standard_normal((6, 512)).astype(np.float32)
    x[0, :64] = 0
    x[1, :32] *= np.float32(1e-3)
    x[2] *= np.float32(1e4)
    return x


@pytest.mark.parametrize("kind", GGUF_TYPES)
def test_any_bytes_read_as_ggml_reads_them(kind):
    """Random bytes decode to the values of the gguf package, and write back."""
    size = GGUF_TYPES[kind].size * 5
    data = np.random.default_rng(1).integers(0, 256, (8, size)).astype(np.uint8)
    if kind == "NVFP4":
        # Its scales have seven bits.
        data.reshape(8, -1, 36)[..., :4] &= 127
    with np.errstate(all="ignore"):
        theirs = gguf.quants.dequantize(data, GGMLQuantizationType[kind])
        made = read_gguf(data, kind)
        ours = made.dequantize()

    assert np.array_equal(ours, theirs, equal_nan=True)


@pytest.mark.parametrize("kind", ["Q8_0", "Q4_0", "MXFP4"])
def test_bytes_are_those_of_ggml(kind):
    """Quantizing gives the bytes of ggml's reference."""
    theirs = gguf.quants.quantize(rows(), GGMLQuantizationType[kind])

    assert np.array_equal(write_gguf(quantize_gguf(rows(), kind), kind), theirs)


@pytest.mark.parametrize("kind", GGUF_TYPES)
def test_write_is_the_inverse_of_read(kind):
    """What was read is written back byte by byte."""
    data = write_gguf(quantize_gguf(rows(), kind), kind)

    assert np.array_equal(write_gguf(read_gguf(data, kind), kind), data)


def test_q4_k_is_close():
    """What ggml's search finds stays within the step that the range allows."""
    x = rows()[3:]
    made = quantize_gguf(x, "Q4_K")
    groups = x.reshape(3, -1, 32)
    span = np.maximum(groups.max(-1), 0) - np.minimum(groups.min(-1), 0)

    error = np.abs(made.dequantize() - x).reshape(groups.shape).max(-1)

    # Half a step, and as much again for the six-bit scale and minimum.
    assert (error <= span / 15).all()


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("fp8_e4m3", {"axis": None}),
        ("fp8_e4m3", {}),
        ("fp8_e4m3", {"block": (128, 128)}),
        ("int8", {}),
        ("int4", {"block": 32}),
        ("int4", {}),
        ("mxfp8_e4m3", {}),
        ("mxfp4", {}),
        ("nvfp4", {}),
    ],
)
def test_compressed_tensors_round_trip(name, options):
    """Codes and scales come back; the tensor's scale is stored as its reciprocal."""
    x = np.random.default_rng(2).standard_normal((256, 512)).astype(np.float32)
    made = quantize(x, name, **options)

    again = from_compressed_tensors(to_compressed_tensors(made), name)

    assert np.array_equal(again.codes, made.codes)
    assert np.array_equal(again.expanded_scales() > 0, made.expanded_scales() > 0)
    # 1 / (1 / s) may be one place off.
    assert np.allclose(again.dequantize(), made.dequantize(), rtol=2.0**-22, atol=0)


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("fp8_e4m3", {"axis": None}),
        ("fp8_e4m3", {}),
        ("mxfp8_e4m3", {}),
        ("nvfp4", {}),
    ],
)
def test_modelopt_round_trip(name, options):
    """Values come back bit by bit."""
    x = np.random.default_rng(3).standard_normal((64, 128)).astype(np.float32)
    made = quantize(x, name, **options)

    again = from_modelopt(to_modelopt(made), name)

    assert np.array_equal(again.dequantize(), made.dequantize())


def test_one_read_as_the_other_is_wrong():
    """The tensor's scale is a divisor in one and a factor in the other."""
    x = np.random.default_rng(4).standard_normal((16, 64)).astype(np.float32)
    stored = to_compressed_tensors(quantize(x, "nvfp4"))
    mixed = {
        "weight": stored["weight_packed"],
        "weight_scale": stored["weight_scale"],
        "weight_scale_2": stored["weight_global_scale"],
    }

    assert np.abs(from_modelopt(mixed, "nvfp4").dequantize()).max() > 1e3


def test_what_does_not_fit_is_refused():
    """Wrong types, partial blocks, tensor scales and missing tensors are named."""
    x = np.ones((2, 64), np.float32)
    with pytest.raises(NumericsError, match="GGUF type 'Q9'"):
        read_gguf(b"", "Q9")
    with pytest.raises(NumericsError, match="whole blocks of 34 bytes"):
        read_gguf(b"123", "Q8_0")
    with pytest.raises(NumericsError, match="global_scale"):
        write_gguf(quantize(x, "nvfp4"), "NVFP4")
    with pytest.raises(NumericsError, match="holds no NaN"):
        quantize_gguf(x * np.float32(np.nan), "Q8_0")
    with pytest.raises(NumericsError, match="blocks of 32"):
        quantize_gguf(x[:, :33], "Q8_0")
    with pytest.raises(NumericsError, match="'weight_scale' is missing"):
        from_modelopt({"weight": x}, "fp8_e4m3")
    with pytest.raises(NumericsError, match="such checkpoints hold weights"):
        to_modelopt(quantize(x, "nf4"))
    assert set(FORMATS) >= {made.format for made in GGUF_TYPES.values()}
