"""Identity of content is of names, dtypes, shapes and bits, and of nothing else."""

from __future__ import annotations

import hashlib
import json

import ml_dtypes
import numpy as np
import pytest

from harness.models.digest import cases_fingerprint, content_digest
from harness.models.types import Case

X = np.arange(6, dtype=np.float32).reshape(2, 3)


def plainly(arrays):
    """The digest as the module's docstring defines it, written out."""
    sha = hashlib.sha256()
    for name in sorted(arrays):
        array = arrays[name]
        for text in (name, array.dtype.name, json.dumps(list(array.shape))):
            sha.update(len(text.encode()).to_bytes(8, "little") + text.encode())
        data = array.tobytes(order="C")
        sha.update(len(data).to_bytes(8, "little") + data)
    return f"content-v1:{sha.hexdigest()}"


def test_is_what_it_says():
    """The documented bytes, hashed by another program, give the same digest."""
    arrays = {"b": X, "a": np.zeros(3, ml_dtypes.bfloat16), "é": np.array(1)}

    assert content_digest(arrays) == plainly(arrays)


@pytest.mark.parametrize(
    "same",
    [
        {"x": np.asfortranarray(X)},
        {"x": np.repeat(X, 2, axis=1)[:, ::2]},
    ],
    ids=["fortran", "strided"],
)
def test_memory_layout_does_not_count(same):
    """Only the values in order do."""
    assert content_digest(same) == content_digest({"x": X})


@pytest.mark.parametrize(
    "other",
    [
        {"y": X},
        {"x": X.reshape(3, 2)},
        {"x": X.astype(np.float64)},
        {"x": X.view(np.int32)},
        {"x": np.copysign(X, -1)},
        {"x": X, "y": X},
        {},
    ],
    ids=["name", "shape", "dtype", "view", "sign", "more", "none"],
)
def test_everything_else_counts(other):
    """A name, a shape, a dtype, one bit, one array more or less."""
    assert content_digest(other) != content_digest({"x": X})


def test_cases_count_in_order_with_ids_and_expectations():
    """Another order, id, expectation, original or bit is another set of cases."""
    one, two = Case("a", {"x": X}), Case("b", {"x": X}, {"label": 1})
    kept = cases_fingerprint([one, two])

    assert cases_fingerprint([Case("a", {"x": X.copy()}), two]) == kept
    for other in (
        [two, one],
        [one],
        [one, Case("c", {"x": X}, {"label": 1})],
        [one, Case("b", {"x": X}, {"label": 2})],
        [one, Case("b", {"x": X + 1}, {"label": 1})],
        [one, Case("b", {"x": X}, {"label": 1}, variant_of="a")],
    ):
        assert cases_fingerprint(other) != kept
