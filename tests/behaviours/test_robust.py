"""A question and its variants are judged in pairs."""

from __future__ import annotations

import numpy as np
import pytest

from harness.behaviours import facts
from harness.behaviours.kinds import KINDS
from harness.behaviours.types import Reply
from harness.models.types import Case

PARIS = {"fact": "Paris"}


def pair(expected, **more):
    return [Case("a", {}, expected), Case("v", {}, expected, variant_of="a", **more)]


def judged(cases, texts):
    """Case -> right, of what was written."""
    replies = {
        name: Reply(
            text=text,
            tokens=np.array([ord(c) for c in text], np.int64),
            probabilities=np.ones(len(text), np.float32),
            ended=True,
        )
        for name, text in texts.items()
    }
    found = KINDS["robust"].evaluate(cases, replies, {}, {"reference": None})
    return {name: (a.original, a.right, a.both) for name, a in found.items()}


@pytest.mark.parametrize(
    ("original", "variant", "right"),
    [
        ("Paris.", "It is Paris.", (True, True, True)),
        ("Paris.", "Rome.", (True, False, False)),
        ("Rome.", "Paris.", (False, True, False)),
        ("Rome.", "Rome.", (False, False, False)),
    ],
)
def test_a_variant_stands_beside_its_original(original, variant, right):
    """The original is no answer of this kind."""
    found = judged(pair(PARIS), {"a": original, "v": variant})

    assert found == {"v": right}


def test_without_an_expectation_nothing_is_right():
    """Two replies that differ may both be good ones."""
    free = pair({"generate": 3})

    assert judged(free, {"a": "A sea.", "v": "A lake."}) == {}


def test_a_variant_without_its_original_is_not_judged():
    """Half a pair says nothing."""
    assert judged(pair(PARIS)[1:], {"v": "Paris."}) == {}
    assert judged([Case("a", {}, PARIS)], {"a": "Paris."}) == {}


@pytest.mark.parametrize(
    ("rows", "right"),
    [
        (((0.0, 2.0), (1.0, 3.0)), (True, True)),
        (((0.0, 2.0), (3.0, 1.0)), (True, False)),
        (((2.0, 0.0), (1.0, 3.0)), (False, True)),
        (((0.0, 2.0), (np.nan, 3.0)), (True, False)),
    ],
)
def test_likely_answers_stand_beside_each_other(monkeypatch, rows, right):
    """By the logits of each; NaN is never right."""

    class Letters:
        def __init__(self, folder):
            pass

        def encode(self, text):
            return [ord(c) - ord("a") for c in text]

    monkeypatch.setattr("harness.models.chat.ChatTokenizer", Letters)
    cases = [
        *pair({"choices": ["a", "b"], "answer": "b"}),
        Case("other", {}, {"fact": "x"}, variant_of="a"),
    ]
    outputs = {
        name: {"logits": np.array([[row]])}
        for name, row in zip(("a", "v", "other"), (*rows, rows[0]), strict=True)
    }
    found = KINDS["robust_choice"].evaluate(cases, outputs, {}, {"tokenizer": "x"})

    assert {name: (a.original, a.right) for name, a in found.items()} == {"v": right}
    likely = facts.choose(cases, outputs, {}, {"tokenizer": "x"})
    assert set(likely) == {"a", "v"}


def test_a_likely_call_has_its_own_key(monkeypatch):
    """`tool_choices`: the wrong function being likelier is a wrong answer."""

    class Letters:
        def __init__(self, folder):
            pass

        def encode(self, text):
            return [ord(c) - ord("a") for c in text]

    monkeypatch.setattr("harness.models.chat.ChatTokenizer", Letters)
    calls = {"tool_choices": ["abc", "bcd"], "answer": "bcd"}
    cases = [Case(n, {}, calls) for n in "xy"] + [Case("z", {}, {"choices": ["a"]})]
    outputs = {
        "x": {"logits": np.array([[[0.0, 1.0]]])},
        "y": {"logits": np.array([[[1.0, 0.0]]])},
    }
    found = KINDS["tool_choice"].evaluate(cases, outputs, {}, {"tokenizer": "x"})

    assert {name: a.right for name, a in found.items()} == {"x": True, "y": False}
