"""Where other libraries disagree with us: the table of docs/numerics-disagreements.md.

Each strict xfail holds a minimal input; it turns red when the library changes.
"""

from __future__ import annotations

import gfloat
import ml_dtypes
import numerics_disagreements as table
import numpy as np
import pytest
import torch
from onnx import helper, numpy_helper

from harness.numerics import decode, encode

THEIRS = pytest.mark.xfail(strict=True, reason="disagrees; see the docs table")


def as_ml(x, dtype):
    """Codes that ml_dtypes' cast gives."""
    with np.errstate(all="ignore"):
        return np.array(x, np.float32).astype(dtype).view(np.uint8).tolist()


@THEIRS
def test_ml_dtypes_rounds_ties_of_e8m0_to_even():
    """3.0 is half way between 2 (code 128) and 4 (code 129): 128 is even."""
    x = [3.0]
    assert (
        as_ml(x, ml_dtypes.float8_e8m0fnu) == encode(np.array(x), "fp8_e8m0").tolist()
    )


@THEIRS
def test_ml_dtypes_rounds_subnormals_to_e8m0():
    """1.25 * 2**-127 is nearer to 2**-127."""
    x = np.array([1.25 * 2.0**-127], np.float32)
    assert as_ml(x, ml_dtypes.float8_e8m0fnu) == encode(x, "fp8_e8m0").tolist()


@THEIRS
def test_torch_rounds_ties_of_e8m0_to_even():
    """As above, in torch."""
    x = torch.tensor([3.0])
    assert torch.equal(
        x.to(torch.float8_e8m0fnu).view(torch.uint8), encode(x, "fp8_e8m0")
    )


@THEIRS
def test_torch_has_no_scale_for_negatives():
    """Torch drops the sign: -2 becomes the scale 2."""
    x = torch.tensor([-2.0])
    assert torch.equal(
        x.to(torch.float8_e8m0fnu).view(torch.uint8), encode(x, "fp8_e8m0")
    )


@THEIRS
def test_onnx_rounds_ties_of_e8m0_to_even():
    """`to_float8e8m0(round_mode="nearest")` takes every exponent for odd."""
    theirs = numpy_helper.to_float8e8m0(np.float32([3.0]), round_mode="nearest")
    wanted = encode(np.float32([3.0]), "fp8_e8m0").tolist()
    assert theirs.view(np.uint8).tolist() == wanted


@THEIRS
def test_ml_dtypes_saturates_e4m3():
    """ml_dtypes has no overflow rule for E4M3: 465 is NaN."""
    assert as_ml([465.0], ml_dtypes.float8_e4m3fn) == [0x7E]


@THEIRS
def test_torch_and_ml_dtypes_agree_on_the_scale_of_zero():
    """Torch makes 2**-127 of zero, as ONNX and we when saturating; ml_dtypes NaN."""
    theirs = torch.tensor([0.0]).to(torch.float8_e8m0fnu).view(torch.uint8).tolist()
    assert theirs == as_ml([0.0], ml_dtypes.float8_e8m0fnu)


@THEIRS
def test_torch_overflows_e5m2_as_it_does_e4m3():
    """Torch saturates E4M3 but gives Inf in E5M2."""
    x = torch.tensor([1e6])
    assert x.to(torch.float8_e5m2).view(torch.uint8).item() == 0x7B


@THEIRS
def test_torch_overflows_fnuz_as_it_does_e4m3():
    """Torch saturates E4M3FN but gives NaN in E4M3FNUZ."""
    x = torch.tensor([1e6])
    assert x.to(torch.float8_e4m3fnuz).view(torch.uint8).item() == 0x7F


@THEIRS
def test_gfloat_refuses_negative_scales():
    """`encode_ndarray` gives what no byte holds for the -1 that it rounded to."""
    info = table.oracles.GFLOAT["fp8_e8m0"]
    rounded = gfloat.round_ndarray(info, np.array([-1.0]), sat=True)
    assert gfloat.encode_ndarray(info, rounded).max() <= 255


@THEIRS
def test_onnx_make_tensor_and_cast_agree():
    """`make_tensor` saturates E4M3 where ml_dtypes' cast, also used, gives NaN."""
    made = helper.make_tensor("x", 17, [1], [465.0])
    assert made.int32_data[0] == as_ml([465.0], ml_dtypes.float8_e4m3fn)[0]


def test_ours_on_all_of_the_above():
    """What we say for each input of the table."""
    assert encode(np.float32([3.0, 6.0]), "fp8_e8m0").tolist() == [128, 130]
    assert encode(np.float32([-2.0, np.inf, 0.0]), "fp8_e8m0").tolist() == [255, 255, 0]
    assert encode(np.float32([0.0]), "fp8_e8m0", overflow="nan").tolist() == [255]
    assert decode(encode(np.float32([465.0]), "fp8_e4m3"), "fp8_e4m3").tolist() == [448]
    assert encode(np.float32([1e6]), "fp8_e5m2").tolist() == [0x7B]


@pytest.mark.quant_slow
def test_the_page_holds_what_is_computed():
    """The table in docs/ is the one that these libraries give now, row by row."""
    _, rows, _ = table.parts(table.PAGE.read_text("utf-8"))
    written = rows.split("\n")

    assert len(written) > 30
    assert written == table.table().split("\n")


def test_overflow_agrees_when_ours_may_overflow():
    """Where the table says overflow or Inf, `overflow="inf"` gives their code."""
    seen = 0
    for name in table.NAMES[:-1]:
        x = np.float32([np.inf, -np.inf, 3.4e38, -3.4e38])
        for library, cast, _ in table.casts(name):
            if library not in {"ml_dtypes", "torch"}:
                continue
            if (library, name) == ("torch", "fp8_e4m3"):
                continue  # the one that saturates
            with np.errstate(all="ignore"):
                theirs = decode(cast(x.copy()), name)
            ours = decode(encode(x, name, overflow=_rule(name)), name)
            assert np.array_equal(theirs, ours, equal_nan=True), (library, name)
            seen += 1
    assert seen > 10


def _rule(name):
    return "saturate" if table.FORMATS[name].nan_code is None else "inf"
