"""Where the error sits: planted errors are found where they were planted."""

from __future__ import annotations

import numpy as np
import pytest

from harness.compare import compare
from harness.compare.structure import find_period
from harness.compare.ulp import ulp_distance


@pytest.fixture
def pair():
    """A matrix and the same with noise of one percent."""
    rng = np.random.default_rng(0)
    x = rng.standard_normal((48, 256)).astype(np.float32)
    return x, x + np.float32(0.01) * rng.standard_normal(x.shape).astype(np.float32)


def test_noise_has_no_structure(pair):
    """Plain noise shows no period and no guilty row, column or block."""
    found = compare(*pair)
    assert [axis.period for axis in found.axes] == [None, None]
    assert all(axis.worst_share < 0.1 for axis in found.axes)
    # 12,288 squares of normal noise: the mean of 16 stays below 4 times theirs.
    assert all(block.times_rms < 2 for block in found.blocks)


@pytest.mark.parametrize("period", [2, 16, 32])
def test_period(pair, period):
    """Every n-th column wrong is a period of n along that axis alone."""
    x, y = pair
    y[:, 3 % period :: period] += 0.2
    rows, columns = compare(x, y).axes
    assert columns.period == period
    assert columns.period_strength > 0.9
    assert rows.period is None


def test_guilty_row_and_column(pair):
    """One row and one channel that are wrong are named by axis."""
    x, y = pair
    y[17] *= 2
    rows, _ = compare(x, y).axes
    assert rows.worst == 17
    assert rows.worst_share > 0.9
    assert rows.sqnr_db.argmin() == 17
    assert rows.rms_error[17] == pytest.approx(np.sqrt(np.square(y - x)[17].mean()))


def test_axes_of_more_dimensions():
    """Each axis of a tensor has its own profile."""
    x = np.zeros((4, 6, 5, 7))
    y = x.copy()
    y[:, 2] = 1
    found = compare(x, y)
    assert [axis.axis for axis in found.axes] == [0, 1, 2, 3]
    assert (found.axes[1].worst, found.axes[1].worst_share) == (2, 1.0)
    assert found.axes[0].worst_share == 0.25


@pytest.mark.parametrize("width", [16, 32, 128])
def test_guilty_block(pair, width):
    """A block whose scale is wrong is found at its place."""
    x, y = pair
    y[5, 128 : 128 + width] *= 1.5
    blocks = {block.width: block for block in compare(x, y).blocks}
    assert blocks[width].index == (5, 128)
    assert blocks[width].times_rms > 3


@pytest.mark.parametrize(
    "profile", [np.zeros(50), np.ones(50), np.arange(50.0), np.eye(1, 50, 7)[0]]
)
def test_profiles_without_a_period(profile):
    """Zero, constant, rising and single errors do not repeat."""
    assert find_period(profile) == (None, 0.0)


def test_ulp_counts_representable_numbers():
    """Neighbours are one apart, across zero and exponents too."""
    for dtype in (np.float16, np.float32, np.float64):
        x = np.array([0, 1, -1, 1000, -0.0], dtype)
        up = np.nextafter(x, dtype(np.inf))
        assert ulp_distance(x, up).tolist() == [1] * 5
        tiny = np.nextafter(dtype(0), dtype(1))
        assert ulp_distance(np.array([-tiny]), np.array([tiny])).tolist() == [2]
    wide = np.array([-np.finfo(float).max])
    assert int(ulp_distance(wide, -wide)[0]) == 2 * int(wide.view(np.uint64)[0] - 2**63)


def test_ulp_of_integers_and_rounding():
    """Integers differ by their difference; a wider candidate is rounded first."""
    a, b = np.array([0, 5], np.uint64), np.array([2**64 - 1, 3], np.uint64)
    assert ulp_distance(a, b).tolist() == [2**64 - 1, 2]
    assert ulp_distance(np.int8([-128]), np.int8([127])).tolist() == [255]
    assert ulp_distance(np.float16([1]), np.float32([1.0001])).tolist() == [0]
