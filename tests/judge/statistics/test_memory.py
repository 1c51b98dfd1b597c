"""What is remembered is what would be computed."""

from __future__ import annotations

import numpy as np

from harness.judge.statistics.memory import remembered
from harness.judge.statistics.ratio import pooled


def test_equal_questions_are_answered_once():
    """By the arrays' bits and every option; others are computed."""
    calls = []

    @remembered
    def total(x, *, seed, clusters=None):
        calls.append(seed)
        return float(x.sum()) + seed

    x = np.arange(4.0)
    assert [7.0, 7.0, 8.0] == [
        total(x, seed=1),
        total(x.copy(), seed=1),
        total(x, seed=2),
    ]
    assert 7.0 == total(x[::-1], seed=1)
    assert 7.0 == total(x, seed=1, clusters=["a", "b"])
    assert 7.0 == total(x, seed=1, clusters=["a", "b"])
    assert [1, 2, 1, 1] == calls


def test_a_changed_array_is_another_question():
    """An array that its owner changes later gives no stale answer."""
    error, reference = np.full(20, 0.1), np.linspace(1, 2, 20)
    before = pooled(error, reference, seed=1).value
    error[0] = 4.0

    assert pooled(error, reference, seed=1).value > before
