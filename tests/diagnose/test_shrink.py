"""Shrinking: smaller inputs that still fail, and never one that does not."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.diagnose.shrink import Shrinker


def test_a_sequence_shrinks_to_the_token_that_matters():
    """64 tokens and their mask, cut together, to one."""
    ids = np.arange(64)[None]
    mask = np.ones((1, 64), np.int64)
    shrinker = Shrinker(lambda found: 37 in found["ids"], tries=200)

    found = shrinker.shrink({"ids": ids, "mask": mask}, [[("ids", 1), ("mask", 1)]])

    assert found["ids"].tolist() == [[37]]
    assert found["mask"].shape == (1, 1)


def test_two_tokens_that_only_fail_together_are_both_kept():
    """Neither half fails alone."""
    ids = np.arange(50)[None]

    def fails(found):
        return 3 in found["ids"] and 44 in found["ids"]

    found = Shrinker(fails, tries=400).shrink({"ids": ids}, [[("ids", 1)]])

    assert found["ids"].tolist() == [[3, 44]]


def test_values_become_plain_where_they_do_not_matter():
    """Zeros, and few digits where they do."""
    x = np.random.default_rng(0).standard_normal((1, 64)).astype(np.float32)
    x[0, 20] = 7.123456

    found = Shrinker(lambda a: bool(a["x"].max() > 5), tries=200).shrink({"x": x}, [])

    assert found["x"].dtype == np.float32
    assert np.count_nonzero(found["x"]) <= 4
    assert found["x"].max() == 7


def test_it_stops_after_so_many_tries():
    """And what it returns still fails."""
    ids = np.arange(1000)[None]
    shrinker = Shrinker(lambda a: 999 in a["ids"], tries=5)

    found = shrinker.shrink({"ids": ids}, [[("ids", 1)]])

    assert shrinker.tried == 5
    assert 999 in found["ids"]


@settings(max_examples=50, deadline=None)
@given(
    st.lists(st.integers(0, 9), min_size=1, max_size=30),
    st.sets(st.integers(0, 9), min_size=1, max_size=3),
)
def test_the_result_always_fails_and_is_never_larger(values, needed):
    """Whatever the failure is."""
    ids = np.array([values])

    def fails(found):
        return needed <= set(found["ids"].reshape(-1).tolist())

    if not fails({"ids": ids}):
        return
    found = Shrinker(fails, tries=500).shrink({"ids": ids}, [[("ids", 1)]])

    assert fails(found)
    assert found["ids"].size <= ids.size
    assert found["ids"].size == len(needed)


@pytest.mark.parametrize("dtype", [np.int64, np.float32, bool])
def test_an_input_that_cannot_shrink_is_returned_as_it_is(dtype):
    """Bit for bit."""
    x = np.array([[1, 0, 1]]).astype(dtype)

    found = Shrinker(lambda a: bool(np.array_equal(a["x"], x))).shrink({"x": x}, [])

    assert np.array_equal(found["x"], x)
    assert found["x"].dtype == x.dtype
