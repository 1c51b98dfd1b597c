"""The catalogue of metrics: whole, consistent, and never NaN."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.compare.catalogue import METRICS, Metric, metrics_for
from harness.compare.embeddings import compare_embeddings
from harness.compare.text import compare_text, edit_distance


def inputs(needs):
    """A reference and a worse candidate of the kind."""
    rng = np.random.default_rng(0)
    a, b = rng.standard_normal((2, 6, 40))
    if needs == "distribution":
        a, b = (np.exp(x) / np.exp(x).sum(axis=1, keepdims=True) for x in (a, b))
    return a, b


@pytest.mark.parametrize("key", [k for k in METRICS if k[0] != "labels"])
def test_direction_and_worst(key):
    """Equal is best, different is worse, NaN is the worst value that is declared."""
    metric = METRICS[key]
    a, b = inputs(key[0])
    sign = 1 if metric.better == "lower" else -1
    bad = b.copy()
    bad[0, 0] = np.nan

    same, other = metric(a, a.copy()), metric(a, b)

    assert sign * same < sign * other
    assert metric(a, bad) == metric.worst
    assert sign * metric.worst >= sign * other


@pytest.mark.parametrize("kind", ["tensor", "embedding", "distribution", "logits"])
def test_every_kind_has_metrics(kind):
    """No output goes unmeasured."""
    assert metrics_for(kind)
    assert all(m.summary and m.interval for m in metrics_for(kind).values())


def test_labels_without_labels_is_the_worst():
    """A metric of right tokens does not pass where none are known."""
    a, b = inputs("logits")
    assert METRICS["labels", "delta_p_rms"](a, b) == math.inf


def test_plugins_add_metrics():
    """A plugin's metric joins those of its kind, and its NaN is the worst."""
    mine = Metric(
        name="mine",
        better="lower",
        unit="1",
        needs="tensor",
        worst=math.inf,
        measure=lambda _reference, _candidate: math.nan,
        summary="always NaN",
    )
    found = metrics_for("tensor", {"mine": mine})
    assert found["mine"](1, 2) == math.inf
    assert "sqnr_db" in found


def test_neighbours():
    """A permutation that keeps directions keeps neighbours; a shuffle does not."""
    rng = np.random.default_rng(1)
    x = rng.standard_normal((50, 16)).astype(np.float32)

    same = compare_embeddings(x, 3 * x)
    other = compare_embeddings(x, rng.permuted(x, axis=1))

    assert (same.cosine_mean, same.nearest_agreement) == (pytest.approx(1.0), 1.0)
    assert same.neighbour_overlap == {1: 1.0, 5: 1.0, 10: 1.0}
    assert other.nearest_agreement < 0.5
    assert other.cosine_quantiles[0.0] < 0.9


@pytest.mark.parametrize("bad", ["nan", "shape", "empty"])
def test_embeddings_that_cannot_be_compared(bad):
    """NaN, another shape and nothing are problems with the worst values."""
    x = np.ones((4, 3))
    y = {"nan": x * np.nan, "shape": x[:2], "empty": x[:0]}[bad]
    x = x[:0] if bad == "empty" else x
    found = compare_embeddings(x, y)
    assert found.problem
    assert (found.cosine_mean, found.nearest_agreement) == (-1.0, 0.0)


@pytest.mark.parametrize(
    ("first", "second", "distance"),
    [("kitten", "sitting", 3), ("", "abc", 3), ("abc", "", 3), ("flaw", "lawn", 2)],
)
def test_edit_distance(first, second, distance):
    """Levenshtein's own examples."""
    assert edit_distance(first, second) == distance


def by_table(first, second):
    """Levenshtein's table, row by row."""
    row = list(range(len(second) + 1))
    for i, left in enumerate(first, start=1):
        diagonal, row[0] = row[0], i
        for j, right in enumerate(second, start=1):
            cost = diagonal + (left != right)
            diagonal = row[j]
            row[j] = min(cost, diagonal + 1, row[j - 1] + 1)
    return row[-1]


@given(st.text("abc", max_size=90), st.text("abcd", max_size=90))
def test_edit_distance_is_that_of_the_table(first, second):
    """Of texts longer than a word of the machine, too; and of tokens."""
    distance = by_table(first, second)

    assert edit_distance(first, second) == distance
    assert edit_distance(list(map(ord, second)), list(map(ord, first))) == distance


def test_text():
    """Error rates, the first difference and validity of a text."""
    found = compare_text('{"a": 1}', '{"a": 2')
    assert (found.edits, found.first_divergence) == (2, 6)
    assert found.character_error_rate == 2 / 8
    assert not found.valid_json
    assert compare_text("a", '{"a": 1}').valid_json
    assert not compare_text("a", "[NaN]").valid_json
    assert not compare_text("a", "a\N{REPLACEMENT CHARACTER}").readable
    assert compare_text("", "").length_ratio == 1
