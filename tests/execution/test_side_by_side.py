"""Replies are kept side by side, the broken ones first, and the page marks where."""

import dataclasses
import json

import numpy as np
import pytest

from harness.behaviours.types import Reply
from harness.execution.side_by_side import FILE, first_divergence, write_replies
from harness.judge.evidence import BehaviourEvidence


def reply(text):
    return Reply(
        text=text,
        tokens=np.array([ord(c) for c in text], dtype=np.int64),
        probabilities=np.linspace(0.9, 0.5, max(len(text), 1))[: len(text)],
        ended=True,
        prompt="asked",
    )


@pytest.mark.parametrize(
    ("first", "second", "step"),
    [([1, 2], [1, 2], None), ([1, 2], [1, 3], 1), ([1], [1, 2], 1), ([], [], None)],
)
def test_the_first_token_that_differs(first, second, step):
    """Also where one simply ends."""
    assert step == first_divergence(first, second)


def test_broken_cases_come_first_and_say_what_broke(tmp_path):
    """Then those that differ, then the rest; a case without a reference is left out."""
    before = {"a": reply("same"), "b": reply("cat"), "c": reply("red")}
    now = {"a": reply("same"), "b": reply("car"), "c": reply("rid"), "d": reply("new")}
    lost = BehaviourEvidence(
        name="fact",
        cases=("a", "c"),
        reference_right=np.array([True, True]),
        target_right=np.array([True, False]),
    )

    shown = dataclasses.replace(lost, name="same_reply", margin=1.0)
    write_replies(tmp_path, before, now, [lost, shown])
    rows = json.loads((tmp_path / FILE).read_text())

    assert ["c", "b", "a"] == [row["case"] for row in rows]
    assert ["fact"] == rows[0]["broken"]
    assert (1, 1, "red", "rid") == tuple(
        rows[0][key] for key in ("step", "common", "reference", "target")
    )
    assert (2, None) == (rows[1]["step"], rows[2]["step"])
    assert all(0 < p < 1 for p in rows[1]["probability"])


def test_without_replies_nothing_is_written(tmp_path):
    """As for every model that writes no text."""
    write_replies(tmp_path, {}, {}, [])

    assert not list(tmp_path.iterdir())
