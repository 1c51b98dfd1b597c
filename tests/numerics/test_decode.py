"""Every code of every format, against everybody who decodes it."""

from __future__ import annotations

import gfloat
import numerics_disagreements as disagreements
import numerics_oracles as oracles
import numpy as np
import pytest
import torch
from onnx import TensorProto, numpy_helper

from harness.errors import NumericsError
from harness.numerics import FORMATS, decode, pack
from harness.numerics.reference import decode_scalar


@pytest.mark.parametrize("name", oracles.ML)
def test_every_code_as_ml_dtypes(name):
    """All codes decode as ml_dtypes (NumPy for int8, uint8 and fp16) says."""
    codes = oracles.all_codes(name)
    theirs = codes.view(oracles.ML[name]).astype(np.float32)

    assert oracles.same_values(decode(codes, name), theirs)


@pytest.mark.parametrize("name", oracles.GFLOAT)
def test_every_code_as_gfloat(name):
    """All codes decode as gfloat says."""
    codes = oracles.all_codes(name)
    theirs = gfloat.decode_ndarray(oracles.GFLOAT[name], codes)

    assert oracles.same_values(decode(codes, name), theirs)


@pytest.mark.parametrize(
    ("name", "dtype"),
    [
        ("fp8_e4m3", torch.float8_e4m3fn),
        ("fp8_e5m2", torch.float8_e5m2),
        ("fp8_e4m3fnuz", torch.float8_e4m3fnuz),
        ("fp8_e5m2fnuz", torch.float8_e5m2fnuz),
        ("fp8_e8m0", torch.float8_e8m0fnu),
    ],
)
def test_every_code_as_torch(name, dtype):
    """All codes decode as torch says, also when given as a torch float8 tensor."""
    codes = torch.arange(256, dtype=torch.uint8)

    ours = decode(codes.view(dtype), name)

    assert isinstance(ours, torch.Tensor)
    assert oracles.same_values(ours.numpy(), codes.view(dtype).float().numpy())


@pytest.mark.parametrize("name", [*disagreements.ONNX, "fp8_e8m0"])
def test_every_code_as_onnx(name):
    """All codes, packed as TensorProto stores them, are the values ONNX reads."""
    codes = oracles.all_codes(name)
    kind = disagreements.ONNX.get(name, TensorProto.FLOAT8E8M0)
    raw = pack(codes, name)
    proto = TensorProto(data_type=kind, dims=codes.shape, raw_data=raw.tobytes())

    theirs = numpy_helper.to_array(proto).astype(np.float32)

    assert oracles.same_values(decode(codes, name), theirs)


@pytest.mark.parametrize("name", oracles.ELEMENTS)
def test_every_code_as_the_scalar_reference(name):
    """All codes decode as the readable reference says."""
    codes = oracles.all_codes(name)
    fmt = FORMATS[name]

    assert oracles.same_values(
        decode(codes, name), [decode_scalar(fmt, int(code)) for code in codes]
    )


@pytest.mark.parametrize("name", oracles.ELEMENTS)
def test_largest_and_smallest(name):
    """`max` and `min` are the largest finite and the smallest positive value."""
    fmt = FORMATS[name]
    values = fmt.decoded[np.isfinite(fmt.decoded)]

    assert fmt.max == float(values.max())
    assert fmt.min == float(values[values > 0].min())


def test_a_table_read_as_its_neighbour_differs():
    """FNUZ read as FN is not the same: the comparison above can fail."""
    codes = oracles.all_codes("fp8_e4m3")

    assert not oracles.same_values(
        decode(codes, "fp8_e4m3"), decode(codes, "fp8_e4m3fnuz")
    )


def test_codes_that_do_not_fit_are_refused():
    """A packed byte given as a 4-bit code says how to unpack it."""
    with pytest.raises(NumericsError, match=r"code 33 does not fit 4 bits.*unpack"):
        decode(np.array([33], np.uint8), "fp4_e2m1")


def test_float_codes_are_refused():
    """Values given where codes belong are an error, not a cast."""
    with pytest.raises(NumericsError, match="should be uint8"):
        decode(np.array([1.0]), "fp8_e4m3")


def test_signed_codes_are_twos_complement():
    """-1 is the code of all ones."""
    assert decode(np.array([-1], np.int8), "int4").tolist() == [-1.0]
