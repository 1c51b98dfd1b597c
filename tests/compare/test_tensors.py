"""compare(): defined for every input, exact, and never fooled by NaN."""

from __future__ import annotations

import json
import math

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays

from harness.compare import compare
from harness.compare.moments import TILE
from harness.errors import UsageError

WORST = {
    "max_abs": math.inf,
    "max_rel": math.inf,
    "max_ulp": math.inf,
    "mse": math.inf,
    "relative_l2": math.inf,
    "sqnr_db": -math.inf,
    "cosine": -1.0,
}


def assert_worst(comparison):
    """No threshold in any direction can pass."""
    assert {name: getattr(comparison, name) for name in WORST} == WORST
    assert comparison.problem


def scalar(reference, candidate):
    """The metrics, element by element in plain Python."""
    r = [float(x) for x in np.ravel(reference)]
    c = [float(x) for x in np.ravel(candidate)]
    errors = [b - a for a, b in zip(r, c, strict=True)]
    energy = math.fsum(e * e for e in errors)
    signal = math.fsum(a * a for a in r)
    other = math.fsum(b * b for b in c)
    return {
        "max_abs": max(abs(e) for e in errors),
        "mse": energy / len(r),
        "bias": math.fsum(errors) / len(r),
        "relative_l2": math.sqrt(energy / signal),
        "sqnr_db": 10 * math.log10(signal / energy),
        "cosine": math.fsum(a * b for a, b in zip(r, c, strict=True))
        / math.sqrt(signal * other),
        "max_rel": max(abs(e / a) for e, a in zip(errors, r, strict=True)),
    }


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64", "bfloat16"])
def test_agrees_with_the_scalar_reference(dtype):
    """Every metric is within 2**-44 of its definition written out."""
    kind = getattr(ml_dtypes, dtype, dtype)
    rng = np.random.default_rng(1)
    reference = rng.standard_normal((7, 96)).astype(kind)
    candidate = (reference.astype(float) * 1.01 + 0.02).astype(kind)

    found = compare(reference, candidate)

    for name, value in scalar(reference, candidate).items():
        assert getattr(found, name) == pytest.approx(value, rel=2**-44), name


def test_agrees_with_scipy():
    """Cosine and distances are SciPy's to a few ULP."""
    from scipy.spatial import distance

    rng = np.random.default_rng(2)
    a, b = rng.standard_normal((2, 5000))

    found = compare(a, b)

    assert found.cosine == pytest.approx(1 - distance.cosine(a, b), abs=1e-14)
    assert found.max_abs == distance.chebyshev(a, b)
    assert found.mse == pytest.approx(distance.sqeuclidean(a, b) / 5000, rel=1e-14)


def test_identical():
    """Equal bits give no distance at all."""
    x = np.linspace(-1, 1, 1000, dtype=np.float32)

    found = compare(x, x.copy())

    assert found.identical
    assert (found.max_abs, found.max_ulp, found.mse, found.bias) == (0, 0, 0, 0)
    assert (found.sqnr_db, found.cosine, found.relative_l2) == (math.inf, 1.0, 0.0)


def test_signed_zero_is_no_error_but_not_identical():
    """-0 equals +0 as a number, and the bits are said to differ."""
    found = compare(np.array([0.0, 1.0]), np.array([-0.0, 1.0]))

    assert found.max_abs == found.max_ulp == found.max_rel == 0
    assert not found.identical


def test_zero_reference():
    """A zero reference that moved is infinitely wrong; one that did not is right."""
    zero = np.zeros(10)

    moved, still = compare(zero, zero + 1e-3), compare(zero, zero)

    assert (moved.sqnr_db, moved.relative_l2, moved.cosine) == (-math.inf, math.inf, 0)
    assert moved.max_rel == math.inf
    assert (still.sqnr_db, still.relative_l2, still.cosine) == (math.inf, 0, 1)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("side", ["reference", "candidate"])
def test_not_finite_never_passes(bad, side):
    """One value that is not finite, on either side, makes everything the worst."""
    reference, candidate = np.ones((2, 300, 500), np.float32)
    (reference if side == "reference" else candidate)[299, 7] = bad

    found = compare(reference, candidate)

    assert_worst(found)
    assert found.worst_index == (299, 7)
    assert found.nonfinite.mismatched == 1


def test_nan_in_the_same_place_never_passes():
    """NaN equals nothing, itself included."""
    x = np.array([1.0, np.nan])
    assert_worst(compare(x, x))


def test_equal_infinities_are_no_error():
    """An infinity that the reference has too is left out of the sums."""
    reference = np.array([1.0, np.inf, -np.inf, 2.0])
    candidate = np.array([1.5, np.inf, -np.inf, 2.0])

    found = compare(reference, candidate)

    assert not found.problem
    assert (found.max_abs, found.mse) == (0.5, 0.0625)
    assert found.nonfinite.reference_inf == 2


def test_opposite_infinities_never_pass():
    """Inf against -Inf is a mismatch."""
    assert_worst(compare(np.array([np.inf]), np.array([-np.inf])))


def test_empty_never_passes():
    """Nothing was compared, so nothing passes."""
    assert_worst(compare(np.zeros((0, 4)), np.zeros((0, 4))))
    assert_worst(compare({}, {}))


def test_shape_comes_first():
    """Another shape is said, and is the worst; nothing is broadcast."""
    found = compare(np.ones((4, 1)), np.ones((4, 4)))

    assert_worst(found)
    assert found.problem == "shape=(4, 4), but should be (4, 1)"


def test_dtype_is_said():
    """Another dtype is reported beside the numbers."""
    found = compare(np.ones(3, np.float32), np.ones(3, np.float16))

    assert not found.dtype_matches
    assert not found.identical
    assert found.max_abs == 0


def test_half_precision_does_not_overflow():
    """60000 - (-60000) is 120000, although float16 ends at 65504."""
    found = compare(np.float16([60000, 1]), np.float16([-60000, 1]))
    assert found.max_abs == 120000


@pytest.mark.parametrize("size", [1e300, 1e-300, 1e-310])
def test_float64_extremes(size):
    """Squares neither overflow nor vanish."""
    reference = np.array([size, 2 * size])
    found = compare(reference, np.array([size, 2.002 * size]))

    assert found.relative_l2 == pytest.approx(0.002 / math.sqrt(5), rel=1e-6, abs=0)
    assert found.cosine == pytest.approx(1.0, abs=1e-6)


def test_scalars():
    """A single number is compared like any array."""
    found = compare(np.float32(2.0), np.float32(2.5))
    assert (found.max_abs, found.worst_index, found.worst_values) == (0.5, (), (2, 2.5))


def test_worst_index_and_neighbourhood():
    """The worst place is found across tiles, with its neighbours on both sides."""
    reference = np.zeros((5, 2, TILE // 2 + 128), np.float32)
    candidate = reference.copy()
    candidate[3, 1, 2] = -4.0

    found = compare(reference, candidate)

    assert found.worst_index == (3, 1, 2)
    assert found.worst_values == (0.0, -4.0)
    assert [i[-1] for i in found.neighbourhood] == [0, 1, 2, 3, 4, 5]


def test_mappings_hold_the_worst_of_each_metric():
    """A mapping is as bad as its worst output, which is named."""
    x = np.arange(1.0, 9.0)

    found = compare({"a": x, "b": x}, {"a": x, "b": x + 1})

    assert found.max_abs == 1.0
    assert found.worst_index[0] == "b"
    assert found.outputs["a"].identical
    assert not found.identical


def test_missing_and_extra_outputs_never_pass():
    """Names must match both ways, however good the rest is."""
    x = np.ones(3)
    assert_worst(compare({"a": x, "b": x}, {"a": x}))
    assert_worst(compare({"a": x}, {"a": x, "b": x}))


def test_not_numbers():
    """Text, complex numbers and a mapping against an array are named as such."""
    with pytest.raises(UsageError, match="reference has dtype"):
        compare(np.array(["a"]), np.array(["a"]))
    with pytest.raises(UsageError, match="candidate has dtype complex128"):
        compare(np.ones(2), np.ones(2, complex))
    with pytest.raises(UsageError, match="both mappings"):
        compare({"a": np.ones(2)}, np.ones(2))


def test_as_dict_is_plain():
    """The dictionary survives JSON, for arrays and mappings."""
    rng = np.random.default_rng(3)
    x = rng.standard_normal((16, 64))
    found = compare({"x": x}, {"x": x + 0.1}).as_dict()

    assert json.loads(json.dumps(found)) == json.loads(json.dumps(found))
    assert found["outputs"]["x"]["max_ulp"] > 0


@pytest.mark.parametrize("order", ["C", "F", "strided", "reversed", "broadcast"])
def test_layout_does_not_matter(order):
    """The same numbers in any memory layout give the same result."""
    rng = np.random.default_rng(4)
    x = rng.standard_normal((64, 96)).astype(np.float32)
    y = x + np.float32(0.1) * x * x
    wanted = compare(x, y).as_dict()
    views = {
        "C": (x, y),
        "F": (np.asfortranarray(x), np.asfortranarray(y)),
        "strided": (np.repeat(x, 2, 1)[:, ::2], np.repeat(y, 2, 1)[:, ::2]),
        "reversed": (x[::-1][::-1], np.ascontiguousarray(y[::-1])[::-1]),
        "broadcast": (x, y),
    }

    assert compare(*views[order]).as_dict() == wanted


def test_torch_tensors():
    """Tensors are compared like arrays, bfloat16 and FP8 included."""
    torch = pytest.importorskip("torch")
    x = torch.linspace(-2, 2, 100)

    for dtype in (torch.float16, torch.bfloat16, torch.float8_e4m3fn):
        found = compare(x, x.to(dtype))
        assert found.max_abs == float((x.to(dtype).float() - x).abs().max())
        assert compare(x.to(dtype), x.to(dtype)).identical


finite = st.floats(-1e6, 1e6, width=32)
pairs = array_shapes(max_dims=3, max_side=9).flatmap(
    lambda shape: st.tuples(
        arrays(np.float32, shape, elements=finite),
        arrays(np.float32, shape, elements=finite),
    )
)


@settings(max_examples=60, deadline=None)
@given(pairs)
def test_symmetry_and_scaling(pair):
    """Symmetric metrics are symmetric; a power of two changes units, not ratios."""
    a, b = pair
    ab, ba = compare(a, b), compare(b, a)
    scaled = compare(a.astype(np.float64) * 8, b.astype(np.float64) * 8)

    assert (ab.max_abs, ab.mse, ab.max_ulp) == (ba.max_abs, ba.mse, ba.max_ulp)
    assert ab.cosine == ba.cosine
    assert ab.bias == -ba.bias
    assert scaled.max_abs == 8 * ab.max_abs
    assert scaled.relative_l2 == pytest.approx(ab.relative_l2, rel=1e-14)
    assert abs(ab.bias) <= ab.max_abs
    # rms <= max holds but for the rounding of a square and its root.
    assert math.sqrt(ab.mse) <= ab.max_abs * (1 + 2**-50)
    assert not any(math.isnan(v) for v in (ab.sqnr_db, ab.cosine, ab.relative_l2))


def test_quantiles_of_large_tensors():
    """Beyond one tile a quantile is at most 2**-7 above the exact one."""
    rng = np.random.default_rng(5)
    reference = np.zeros((4, TILE), np.float32)
    candidate = rng.standard_normal(reference.shape).astype(np.float32)
    magnitude = np.abs(candidate).ravel().astype(float)

    found = compare(reference, candidate)

    for q, value in found.error_quantiles.items():
        exact = np.quantile(magnitude, q, method="inverted_cdf")
        assert exact <= value <= exact * (1 + 2**-7)
    rms = math.sqrt(found.mse)
    for k, share in found.beyond_sigma.items():
        assert share <= (magnitude > k * rms).mean() <= share * 1.1 + 1e-4


@pytest.mark.parametrize("shape", [(16, 1 << 18), (1 << 18, 16), (1 << 22,)])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_memory_is_bounded(shape, dtype):
    """At most 64 MiB above the inputs, however long an axis is."""
    import tracemalloc

    x = np.ones(shape, dtype)
    y = x + np.float32(0.5)
    compare(x[:1], y[:1])
    tracemalloc.start()
    compare(x, y)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 64 << 20
