"""The prompts of the language suite cover its behaviours and its axes."""

from __future__ import annotations

import json
import re
from collections import Counter
from pathlib import Path

import pytest

from harness.behaviours.schema import check_schema
from harness.behaviours.structured import _RULES
from harness.execution.suite import load_suite

FOLDER = Path(__file__).resolve().parents[2] / "suites" / "smollm2"
LINES = (FOLDER / "cases.jsonl").read_text("utf-8").split("\n")
CASES = [json.loads(line) for line in LINES if line]
#: Behaviour -> the key of `expected` that its cases have.
KEYS = {
    "json": "json",
    "json_schema": "json",
    "code": "code",
    "format": "format",
    "arithmetic": "number",
    "choice": "choices",
    "fact": "fact",
    "grounded": "context",
    "needle": "needle",
    "ending": "ends",
}


def with_key(key, cases=None):
    return [c for c in (cases or CASES) if key in c.get("expected", {})]


def test_there_are_enough_prompts_and_each_is_one():
    """At least 300, ids and texts unique, every one tagged and answered."""
    own = [c for c in CASES if "sampled" not in c["tags"]]
    asked = {
        json.dumps([c.get(k) for k in ("prompt", "messages", "text")]) for c in own
    }

    assert len(CASES) >= 300
    assert len(CASES) == len({c["id"] for c in CASES})
    # Sampled replies are asked for with prompts of others.
    assert len(own) == len(asked)
    assert all(c["tags"] and ("text" in c or "reply" in c) for c in CASES)


def test_prompts_are_those_of_the_maker():
    """`cases.jsonl` is `prompts.jsonl` with replies and tags."""
    prompts = (FOLDER / "prompts.jsonl").read_text("utf-8").split("\n")
    made = [json.loads(line) for line in prompts if line]

    assert [p["id"] for p in made] == [c["id"] for c in CASES]
    for prompt, case in zip(made, CASES, strict=True):
        assert prompt.get("expected") == case.get("expected")
        assert prompt.get("prompt", prompt.get("text")) == case.get(
            "prompt", case.get("text")
        )


@pytest.mark.parametrize("selected", [False, True])
@pytest.mark.parametrize("behaviour", KEYS)
def test_every_behaviour_has_cases(behaviour, selected):
    """Also among those that run before a merge."""
    cases = [c for c in CASES if not selected or "gate" in c["tags"]]

    assert len(with_key(KEYS[behaviour], cases)) >= (3 if selected else 8)


def test_the_axes_are_covered():
    """Lengths from 16 to 2,000 tokens; digits, code, other languages, emoji, spaces."""
    tags = Counter(tag for case in CASES for tag in case["tags"])

    for limit in (16, 32, 64, 128, 256, 512, 1024, 2048):
        assert tags[f"tokens<={limit}"] >= 1
    for slice_ in ("digits", "code", "non-english", "emoji", "whitespace", "long"):
        assert tags[slice_] >= 7
    gate = [c for c in CASES if "gate" in c["tags"]]
    assert any("long" in c["tags"] for c in gate)
    assert any("digits" in c["tags"] for c in gate)


def test_what_is_expected_can_be_judged():
    """Schemas are understood, rules exist, answers are among the choices."""
    for case in CASES:
        wanted = case.get("expected", {})
        if "json" in wanted:
            check_schema(wanted["json"], case["id"])
        assert set(wanted.get("format", {})) <= set(_RULES)
        assert wanted.get("answer") in wanted.get("choices", [None])
        if "needle" in wanted:
            assert re.search(rf"\b{wanted['needle']}\b", case["prompt"])
        if "tool_call" in wanted:
            assert set(wanted["tool_call"]) == {"name", "arguments"}


def test_the_suite_names_each_kind_once():
    """And every kind that has cases."""
    kinds = [b.kind for b in load_suite(FOLDER).behaviours]

    assert set(KEYS) <= set(kinds)
    assert len(kinds) == len(set(kinds))
