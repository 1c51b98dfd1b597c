"""The compiled pass gives what NumPy gives: counts and places equal, sums to 2**-44."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import pytest

from harness.compare.logits import compare_logits
from harness.compare.moments import LONGEST_PROFILE, TILE
from harness.compare.native import fits, measure_native
from harness.compare.tensors import measure_plain
from harness.golden.compact import compact

pytest.importorskip("numba")

SHAPES = [(37, 512), (3, TILE + 384), (5, 7, 33), (1, 9 * TILE), (2000, 48), (1,)]


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
@pytest.mark.parametrize("shape", SHAPES)
def test_equals_numpy(dtype, shape):
    """Every sum, count, profile, place and block, for shapes cut in every way."""
    kind = np.dtype(getattr(ml_dtypes, dtype, dtype))
    rng = np.random.default_rng(7)
    reference = rng.standard_normal(shape).astype(kind)
    reference.flat[:: max(1, reference.size // 5)] = 0
    # Subnormals of each type are numbers like others.
    reference.flat[-1] = np.float32(1e-7) if dtype == "float16" else np.float32(1e-40)
    candidate = (reference.astype(np.float32) * 1.01).astype(kind)
    candidate.flat[reference.size // 2] = 3.0

    assert fits(reference, candidate)
    native, plain = (f(reference, candidate) for f in (measure_native, measure_plain))

    assert native.elements == plain.elements
    assert native.differing == plain.differing
    assert native.max_ulp == plain.max_ulp
    assert native.max_abs == plain.max_abs
    assert native.max_rel == plain.max_rel
    assert native.histogram.tolist() == plain.histogram.tolist()
    for name in ("error", "error_sq", "reference_sq", "candidate_sq", "product"):
        size = plain.total("reference_sq")
        assert native.total(name) == pytest.approx(
            plain.total(name), rel=2**-44, abs=size * 2**-44
        ), name
    np.testing.assert_allclose(native.by_row, plain.by_row, rtol=2**-44)
    if shape[-1] > LONGEST_PROFILE:
        assert native.by_column is plain.by_column is None
    else:
        np.testing.assert_allclose(native.by_column, plain.by_column, rtol=2**-44)
    assert native.worst_blocks.keys() == plain.worst_blocks.keys()
    for width, (energy, *place) in plain.worst_blocks.items():
        assert native.worst_blocks[width][0] == pytest.approx(energy, rel=2**-44)
        assert list(native.worst_blocks[width][1:]) == place


@pytest.mark.parametrize("bad", [np.nan, np.inf])
@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
def test_leaves_what_is_not_finite_to_numpy(bad, dtype):
    """NaN and infinities are noticed wherever they are, on either side."""
    kind = np.dtype(getattr(ml_dtypes, dtype, dtype))
    for place in (0, 40_000, 99_999):
        x, y = np.ones((2, 10, 10_000), kind)
        y.flat[place] = bad
        assert measure_native(x, y) is None
        assert measure_native(y, x) is None


def test_identical():
    """No element differs."""
    x = np.linspace(-1, 1, 100_000, dtype=np.float32)
    found = measure_native(x, x.copy())
    assert (found.differing, found.max_ulp, found.max_abs.value) == (0, 0, 0)


def test_threads_do_not_matter(monkeypatch):
    """One thread and eight give the same bits."""
    rng = np.random.default_rng(8)
    x, y = rng.standard_normal((2, 300, 700)).astype(np.float32)
    found = []
    for count in (1, 8):
        monkeypatch.setattr("harness.compare.native.threads", lambda n=count: n)
        found.append(measure_native(x, y))
    one, many = found
    assert one.error_sq == many.error_sq
    assert one.by_column.tobytes() == many.by_column.tobytes()
    assert one.by_row.tobytes() == many.by_row.tobytes()


def test_relative_error_beyond_float32():
    """A ratio too large for float32 is found in float64."""
    x = np.full(70_000, 1e-30, np.float32)
    y = x.copy()
    y[69_000] = 1e30
    y[100] = 1e29
    found = measure_native(x, y)
    assert found.max_rel.place == 69_000
    assert found.max_rel.value == pytest.approx(1e60, rel=1e-6)


@pytest.mark.parametrize("noise", [1e-3, 0.1, 3.0])
@pytest.mark.parametrize("width", [5, 1000, 3001])
def test_logits_equal_numpy(monkeypatch, noise, width):
    """KL, reverse KL and JS within 1e-13, flips and top-5 equal."""
    rng = np.random.default_rng(9)
    a = (4 * rng.standard_normal((50, width))).astype(np.float32)
    b = (a + noise * rng.standard_normal(a.shape)).astype(np.float32)
    labels = rng.integers(-1, width, 50)
    plain = compare_logits(a, b, labels=labels)
    monkeypatch.setattr("harness.compare.rows.NATIVE_FROM", 0)
    native = compare_logits(a, b, labels=labels)

    assert native.flips == plain.flips
    assert native.top5_agreement == pytest.approx(plain.top5_agreement, rel=1e-12)
    assert native.delta_p_rows.tolist() == plain.delta_p_rows.tolist()
    assert native.kl_rows == pytest.approx(plain.kl_rows, rel=1e-12, abs=1e-13)
    assert native.reverse_kl == pytest.approx(plain.reverse_kl, rel=1e-12, abs=1e-13)
    assert native.js == pytest.approx(plain.js, rel=1e-12, abs=1e-13)


def test_logits_not_finite(monkeypatch):
    """A row that is not finite is noticed."""
    monkeypatch.setattr("harness.compare.rows.NATIVE_FROM", 0)
    a = np.zeros((3, 300), np.float32)
    for bad in (np.nan, np.inf, -np.inf):
        b = a.copy()
        b[1, 299] = bad
        assert "1 of 3 rows" in compare_logits(a, b).problem


@pytest.mark.parametrize("dtype", ["float32", "float16"])
@pytest.mark.parametrize("noise", [1e-3, 0.3])
def test_compact_logits_equal_numpy(monkeypatch, noise, dtype):
    """From a golden's kept tokens: KL by row within 1e-11, flips and top-5 equal."""
    rng = np.random.default_rng(4)
    a = (4 * rng.standard_normal((40, 3001))).astype(np.float32)
    b = (a + noise * rng.standard_normal(a.shape)).astype(dtype)
    golden = compact(a, kind="logits", labels=rng.integers(-1, 3001, 40))
    plain = compare_logits(golden, b)
    monkeypatch.setattr("harness.compare.rows.NATIVE_FROM", 0)
    native = compare_logits(golden, b)

    assert native.flip_rows.tolist() == plain.flip_rows.tolist()
    assert native.top5_agreement == plain.top5_agreement
    assert native.delta_p_rows == pytest.approx(plain.delta_p_rows, abs=1e-13)
    assert native.kl_rows == pytest.approx(plain.kl_rows, rel=1e-11, abs=1e-13)


def test_compact_logits_not_finite(monkeypatch):
    """A row of the target that is not finite is noticed, compiled or not."""
    a = np.random.default_rng(0).standard_normal((3, 3000)).astype(np.float32)
    golden = compact(a, kind="logits")
    for least in (0, 1 << 62):
        monkeypatch.setattr("harness.compare.rows.NATIVE_FROM", least)
        for bad in (np.nan, np.inf, -np.inf):
            b = a.copy()
            b[1, 2999] = bad
            assert "1 of 3 rows" in compare_logits(golden, b).problem
