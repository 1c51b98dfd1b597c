"""Defects of a whole runtime, on a session that is right."""

from __future__ import annotations

import numpy as np
import pytest

from harness.backends.protocol import Outputs
from harness.defects import DEFECTS
from harness.defects.runtime import PlantedSession
from harness.errors import UnsupportedError


class Doubling:
    """A faultless session: y = 2 x, and the captured operator beside it."""

    def run(self, inputs, *, capture=()):
        x = inputs["input_ids"]
        hidden = {n: x + 1.0 for c in capture for n in (c, f"{c}/input")}
        return Outputs({"y": x * 2.0, **hidden}, {"run": 1.0})

    def close(self):
        pass


def planted(name, strength=1.0, seed=0):
    """A session with the defect in it."""
    return PlantedSession(Doubling(), DEFECTS[name].change(strength, seed))


def ids(start, batch=3):
    """(batch, 4) integers, no two alike."""
    return {"input_ids": np.arange(start, start + 4 * batch).reshape(batch, 4)}


def test_a_stale_output_is_that_of_the_call_before():
    """The first call has none before it."""
    session = planted("stale_output")

    first = session.run(ids(0))["y"]
    second = session.run(ids(100))["y"]

    assert np.array_equal(first, ids(0)["input_ids"] * 2)
    assert np.array_equal(second, first)


@pytest.mark.parametrize(
    ("name", "batch", "wrong"),
    [
        ("batch_entries_exchanged", 3, [0, 1]),
        ("batch_entries_exchanged", 1, []),
        ("last_batch_entry_zero", 3, [2]),
        ("last_batch_entry_zero", 1, []),
        ("first_token_missing", 3, [0, 1, 2]),
    ],
)
def test_which_entries_of_a_batch_are_wrong(name, batch, wrong):
    """One alone is right where batch mates are the cause."""
    y = planted(name).run(ids(0, batch))["y"]

    right = ids(0, batch)["input_ids"] * 2
    assert np.flatnonzero((y != right).any(axis=1)).tolist() == wrong


def test_a_model_without_tokens_has_no_first_one():
    """The planting does not fit, rather than never fire."""
    with pytest.raises(UnsupportedError, match="takes no tokens"):
        planted("first_token_missing").run({"audio": np.zeros((1, 4))})


def test_a_reused_buffer_is_written_over_by_the_next_call():
    """The array that was handed out before changes under its owner."""
    session = planted("buffer_reused")
    session.run(ids(0))
    second = session.run(ids(100))["y"]
    kept = second.copy()

    session.run(ids(200))

    assert not np.array_equal(second, kept)


def test_an_intermittent_row_is_wrong_in_some_calls_only():
    """About its share of them."""
    session = planted("intermittent_row", strength=0.3)
    right = ids(1)["input_ids"] * 2

    wrong = sum(not np.array_equal(session.run(ids(1))["y"], right) for _ in range(100))

    assert 15 < wrong < 50


def test_captured_operators_are_left_as_they_are():
    """The runtime is wrong, not its layers."""
    outputs = planted("last_batch_entry_zero").run(ids(0), capture=["fc"])

    assert np.array_equal(outputs["fc"], ids(0)["input_ids"] + 1.0)
