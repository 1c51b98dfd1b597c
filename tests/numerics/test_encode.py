"""Every float16 and bfloat16, every midpoint of float32, against everybody."""

from __future__ import annotations

import gfloat
import ml_dtypes
import numerics_oracles as oracles
import numpy as np
import pytest
import torch

from harness.numerics import FORMATS, decode, encode

WITH_SIGN = [name for name in oracles.ML if FORMATS[name].kind == "float"]
EVERY_16 = np.arange(65536).astype(np.uint16)


def sources(name):
    """Every float16, every bfloat16, midpoints with neighbours, powers of two."""
    return [
        EVERY_16.view(np.float16),
        EVERY_16.view(ml_dtypes.bfloat16),
        oracles.midpoints(name),
        oracles.powers_of_two(),
    ]


@pytest.mark.parametrize("name", WITH_SIGN)
def test_as_ml_dtypes(name):
    """Codes are those of ml_dtypes after clipping; NaN is the quiet NaN."""
    for x in sources(name):
        wide = x.astype(np.float32)
        number = ~np.isnan(wide)

        codes = encode(x, name)

        assert np.array_equal(codes[number], oracles.ml_encode(wide[number], name))
        nan = np.unique(codes[~number])
        assert nan.tolist() in ([], [FORMATS[name].nan_result])


@pytest.mark.parametrize("mode", oracles.GFLOAT_MODES)
@pytest.mark.parametrize("name", [n for n in oracles.GFLOAT if n != "fp8_e8m0"])
def test_every_mode_as_gfloat(name, mode):
    """Each rounding mode gives gfloat's value, where that is finite."""
    x = np.concatenate([oracles.midpoints(name)[:3000], oracles.powers_of_two()])
    fmt = FORMATS[name]
    x = x[np.isfinite(x) & (np.abs(x) <= fmt.max)].astype(np.float64)

    theirs = gfloat.round_ndarray(
        oracles.GFLOAT[name], x, rnd=oracles.GFLOAT_MODES[mode], sat=True
    )

    assert x.size > 20
    assert oracles.same_values(decode(encode(x, name, rounding=mode), name), theirs)


@pytest.mark.parametrize(
    ("name", "dtype"),
    [("fp8_e4m3", torch.float8_e4m3fn), ("fp8_e5m2", torch.float8_e5m2)],
)
def test_as_torch_in_range(name, dtype):
    """Codes are those of torch's cast for every finite value in range."""
    for x in sources(name):
        wide = x.astype(np.float32)
        wide = wide[np.abs(wide) <= FORMATS[name].max]

        theirs = torch.from_numpy(wide).to(dtype).view(torch.uint8).numpy()

        assert np.array_equal(encode(wide, name), theirs)


def test_scales_as_ml_dtypes():
    """E8M0 is ml_dtypes' but for ties and subnormals (see test_disagreements)."""
    x = np.concatenate([oracles.midpoints("fp8_e8m0"), oracles.powers_of_two()])
    with np.errstate(all="ignore"):
        theirs = x.astype(ml_dtypes.float8_e8m0fnu).view(np.uint8)
    tie = np.isfinite(x) & (np.frexp(np.where(np.isfinite(x), x, 1))[0] == 0.75)
    subnormal = (x > 0) & (x < 2.0**-126)
    compared = ~tie & ~subnormal

    codes = encode(x, "fp8_e8m0", overflow="nan")

    assert compared.sum() > 1000
    assert np.array_equal(codes[compared], theirs[compared])


def test_scales_as_gfloat():
    """E8M0 rounds to nearest, ties to the even code, as gfloat says."""
    x = np.concatenate([oracles.midpoints("fp8_e8m0"), oracles.powers_of_two()])
    x = x[(x >= 2.0**-127) & np.isfinite(x)].astype(np.float64)
    info = oracles.GFLOAT["fp8_e8m0"]

    theirs = gfloat.round_ndarray(info, x, rnd=gfloat.RoundMode.TiesToEven, sat=True)

    assert oracles.same_values(decode(encode(x, "fp8_e8m0"), "fp8_e8m0"), theirs)


@pytest.mark.parametrize("name", [n for n in oracles.GFLOAT if n != "fp8_e8m0"])
def test_every_16_bit_value_as_gfloat(name):
    """Every finite float16 and bfloat16 is the value that gfloat rounds it to."""
    for kind in (np.float16, ml_dtypes.bfloat16):
        x = EVERY_16.view(kind)
        with np.errstate(invalid="ignore"):
            wide = x.astype(np.float64)
        number = np.isfinite(wide)
        x, wide = x[number], wide[number]

        theirs = gfloat.round_ndarray(oracles.GFLOAT[name], wide, sat=True)

        assert x.size > 60_000
        assert oracles.same_values(decode(encode(x, name), name), theirs)


@pytest.mark.quant_slow
@pytest.mark.parametrize("name", WITH_SIGN)
def test_ten_million_bit_patterns(name):
    """Random float32 bits, ten million of them, as ml_dtypes says."""
    generator = np.random.default_rng(20)
    for _ in range(10):
        bits = generator.integers(0, 1 << 32, 1_000_000, dtype=np.uint32)
        x = bits.view(np.float32)
        x = x[~np.isnan(x)]

        assert np.array_equal(encode(x, name), oracles.ml_encode(x, name))


@pytest.mark.parametrize("name", oracles.FLOATS)
def test_float64_is_rounded_once(name):
    """A float64 a hair above a midpoint goes up, though its float32 is the tie."""
    values = np.unique(
        np.abs(FORMATS[name].decoded[np.isfinite(FORMATS[name].decoded)])
    )
    low, high = values[1:4], values[2:5]
    tie = (low.astype(np.float64) + high) / 2
    above = tie * (1 + 2.0**-40)
    assert np.array_equal(above.astype(np.float32), tie.astype(np.float32))

    assert decode(encode(above, name), name).tolist() == high.tolist()
    assert decode(encode(-above, name), name).tolist() == (-high).tolist()


def test_bfloat16_is_not_rounded_through_float16():
    """A bfloat16 beyond float16 arrives."""
    x = np.array([1e5], ml_dtypes.bfloat16)

    assert decode(encode(x, "bf16"), "bf16")[0] == np.float32(x[0])


@pytest.mark.parametrize(
    ("name", "overflow", "wanted"),
    [
        ("fp8_e4m3", "saturate", 448.0),
        ("fp8_e4m3", "nan", np.nan),
        ("fp8_e4m3", "inf", np.nan),
        ("fp8_e5m2", "saturate", 57344.0),
        ("fp8_e5m2", "nan", np.nan),
        ("fp8_e5m2", "inf", np.inf),
        ("fp8_e4m3fnuz", "nan", np.nan),
        ("fp4_e2m1", "saturate", 6.0),
    ],
)
def test_overflow(name, overflow, wanted):
    """Each overflow rule, for a large number and for Inf, keeps the sign."""
    x = np.array([1e30, np.inf, -1e30, -np.inf], np.float32)

    values = decode(encode(x, name, overflow=overflow), name)

    assert np.array_equal(
        values, np.float32([wanted, wanted, -wanted, -wanted]), equal_nan=True
    )


def test_what_rounds_to_the_largest_does_not_overflow():
    """464 is the tie between 448 and 480: it is 448; the next float32 is NaN."""
    x = np.array([464.0, np.nextafter(np.float32(464), np.float32(1e3))], np.float32)

    assert encode(x, "fp8_e4m3", overflow="nan").tolist() == [0x7E, 0x7F]


@pytest.mark.parametrize("name", ["fp8_e4m3fnuz", "fp8_e5m2fnuz"])
def test_tiny_negatives_are_not_nan_in_fnuz(name):
    """-0 and what rounds to it is +0: the code of minus zero is NaN (onnx#5764)."""
    x = np.array([-0.0, -1e-30], np.float32)

    assert encode(x, name).tolist() == [0, 0]


def test_minus_zero_is_kept():
    """-0 keeps its sign where there is one (onnx#8227)."""
    assert encode(np.array([-0.0, -1e-30]), "fp4_e2m1").tolist() == [8, 8]


def test_onnx_5456():
    """1.8131605 is 1.875 in E4M3, not 1.75 (onnxruntime#16938)."""
    codes = encode(np.array([1.8131605], np.float32), "fp8_e4m3")

    assert decode(codes, "fp8_e4m3").tolist() == [1.875]


@pytest.mark.parametrize("name", ["fp8_e4m3", "fp4_e2m1", "int8", "nf4", "bf16"])
def test_stochastic_is_unbiased_and_reproducible(name):
    """The mean of many draws is the number; the same seed gives the same codes."""
    value = 0.3 if name == "nf4" else 1.3
    x = np.full(40_000, value, np.float32)

    codes = encode(x, name, rounding="stochastic", seed=3)
    values = decode(codes, name).astype(np.float64)

    assert np.array_equal(codes, encode(x, name, rounding="stochastic", seed=3))
    assert not np.array_equal(codes, encode(x, name, rounding="stochastic", seed=4))
    # Five standard errors of the mean of two neighbouring values.
    spread = np.ptp(values) / 2 / np.sqrt(x.size)
    assert abs(values.mean() - np.float64(x[0])) < 5 * spread + 1e-12


@pytest.mark.parametrize("name", oracles.ELEMENTS)
def test_encoding_a_decoded_code_gives_it_back(name):
    """Every code that is a number survives the round trip."""
    codes = oracles.all_codes(name)
    values = decode(codes, name)
    number = ~np.isnan(values)

    again = encode(
        values[number],
        name,
        **({"overflow": "inf"} if name in ("fp8_e5m2", "fp16", "bf16") else {}),
    )

    assert np.array_equal(again, codes[number])
