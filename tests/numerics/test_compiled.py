"""The compiled loops give the same bits as NumPy."""

from __future__ import annotations

import functools
import itertools

import ml_dtypes
import numerics_oracles as oracles
import numpy as np
import pytest

from harness.numerics import FORMATS, compiled, decode, encode, quantize

DTYPES = [np.float32, ml_dtypes.bfloat16, np.float16]


def arrays():
    """Normal numbers with zeros, tiny and huge rows; finite bits; any bits."""
    generator = np.random.default_rng(1)
    bits = generator.integers(0, 1 << 32, (3, 4, 70), dtype=np.uint32).view(np.float32)
    normal = generator.standard_normal((3, 4, 70)).astype(np.float32)
    normal[0, 0, :40] = 0
    normal[1, 2, 3] = 1e-30
    normal[2] *= np.float32(1e-40)
    return [normal, np.where(np.isfinite(bits), bits, 1).astype(np.float32), bits]


def both(monkeypatch, function):
    """What NumPy gives, then what the loops give."""
    results = []
    for least in (1 << 60, 1):
        monkeypatch.setattr(compiled, "LARGE", least)
        results.append(function())
    return results


def assert_same(monkeypatch, x, name, **options):
    """Codes, scales, zero points and values of both ways are equal."""
    ours, theirs = both(monkeypatch, lambda: quantize(x, name, **options))
    assert np.array_equal(ours.scales, theirs.scales, equal_nan=True)
    assert ours.global_scale == theirs.global_scale
    assert np.array_equal(ours.codes, theirs.codes)
    if ours.zero_points is not None:
        assert np.array_equal(ours.zero_points, theirs.zero_points)
    first, second = both(monkeypatch, ours.dequantize)
    assert oracles.same_values(first, second)


def test_the_loops_are_there():
    """Numba is installed here: nothing below compares NumPy to itself."""
    assert compiled.available()


def test_they_can_be_switched_off(monkeypatch):
    """QUANTHARNESS_COMPILED=0 leaves NumPy."""
    monkeypatch.setenv("QUANTHARNESS_COMPILED", "0")
    monkeypatch.setattr(compiled, "LARGE", 1)

    assert compiled.loops(np.zeros(4, np.float32)) is None


@pytest.mark.quant_slow
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", oracles.ELEMENTS)
def test_encode_and_decode(name, dtype, monkeypatch):
    """Every element format, each overflow rule, each source type."""
    rules = ["saturate"]
    if FORMATS[name].kind == "float" and FORMATS[name].specials != "none":
        rules += ["nan", "inf"]
    for values, rule in itertools.product(arrays(), rules):
        with np.errstate(all="ignore"):
            x = values.astype(dtype)
        call = functools.partial(encode, x, name, overflow=rule)
        first, second = both(monkeypatch, call)
        assert np.array_equal(first, second)
    codes = oracles.all_codes(name)
    assert oracles.same_values(*both(monkeypatch, lambda: decode(codes, name)))


@pytest.mark.quant_slow
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", FORMATS)
def test_quantize(name, dtype, monkeypatch):
    """Every format, rule and granularity, on normal and adversarial values."""
    fmt = FORMATS[name]
    rules = {
        "fp8_e8m0": ["floor", "ceil", "rceil", "even"],
        "fp8_e4m3": ["amax", "no_global", "normal", "4over6"],
    }.get(fmt.scale, ["amax", "pow2"])
    axes = [-1, 1] if fmt.kind == "block" else [None, -1, 1, (0, 2), (1, 2)]
    for values, rule, axis in itertools.product(arrays(), rules, axes):
        with np.errstate(all="ignore"):
            x = values.astype(dtype)
        for block in (None, 16, 7) if isinstance(axis, int) else (None,):
            options = {"axis": axis, "block": block, "rule": rule}
            assert_same(monkeypatch, x, name, **options)
            if fmt.kind == "int":
                assert_same(monkeypatch, x, name, **options, symmetric=False)


def test_boxes_and_threads(monkeypatch):
    """Two-dimensional blocks, shared between threads, one scale a tensor included."""
    monkeypatch.setattr(compiled, "_PER_THREAD", 1)
    compiled.set_threads(3)
    try:
        x = np.random.default_rng(2).standard_normal((130, 257)).astype(np.float32)
        assert_same(monkeypatch, x, "fp8_e4m3", block=(128, 128))
        assert_same(monkeypatch, x, "mxfp4")
        flat = np.resize(x, 1 << 17)
        assert_same(monkeypatch, flat, "fp8_e4m3", axis=None)
        assert_same(monkeypatch, flat, "nvfp4")
    finally:
        compiled.set_threads(0)


def test_read_only_and_strided_arrays(monkeypatch):
    """A view that is not contiguous and cannot be written is quantized as its copy."""
    monkeypatch.setattr(compiled, "LARGE", 1)
    x = np.random.default_rng(3).standard_normal((64, 64)).astype(np.float32)[::2, ::-1]
    x.flags.writeable = False

    assert np.array_equal(quantize(x, "mxfp4").codes, quantize(x.copy(), "mxfp4").codes)


def test_an_error_in_a_thread_is_raised():
    """A failure of one share of the work is not swallowed."""
    compiled.set_threads(2)
    try:
        with pytest.raises(ZeroDivisionError):
            compiled.share(4, 1 << 30, lambda part: 1 // part.start)
    finally:
        compiled.set_threads(0)


@pytest.mark.quant_slow
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("width", [16, 32, 64])
def test_whole_blocks_of_the_usual_widths(width, dtype, monkeypatch):
    """Blocks that fill their rows, many tiles of them, with and without NaN and Inf."""
    generator = np.random.default_rng(width)
    x = generator.standard_normal((40, 1024)).astype(np.float32)
    x *= np.float32(2.0) ** generator.integers(-30, 30, (40, 1))
    special = x.copy()
    special.flat[:: 16 * 77] = np.nan
    special.flat[5 :: 16 * 91] = -np.inf
    with np.errstate(all="ignore"):
        sources = [x.astype(dtype), special.astype(dtype)]
    for values in sources:
        for name in ("mxfp8_e4m3", "mxfp4", "nvfp4", "fp8_e5m2", "int4", "nf4"):
            assert_same(monkeypatch, values, name, block=width)
        for symmetric in (True, False):
            assert_same(monkeypatch, values, "uint4", block=width, symmetric=symmetric)
