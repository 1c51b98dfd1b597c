"""The prompts of the language suite cover its behaviours and its axes."""

from __future__ import annotations

import json
import re
from collections import Counter
from pathlib import Path

import pytest

from harness.behaviours.schema import check_schema
from harness.behaviours.structured import _RULES
from harness.errors import ModelError
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
#: Of cases that only a night runs.
NIGHTLY = {"tool_choice": "tool_choices"}


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


def test_a_variant_asks_what_its_original_asks():
    """At least 40, in other words and with noise, of one question each, at night."""
    by_id = {case["id"]: case for case in CASES}
    variants = [case for case in CASES if "variant_of" in case]
    tags = Counter(tag for case in variants for tag in case["tags"])

    assert len(variants) >= 40
    assert tags["paraphrase"] >= 15
    assert tags["noise"] >= 15
    for case in variants:
        original = by_id[case["variant_of"]]
        assert "variant_of" not in original
        assert case["expected"] == original["expected"]
        assert case.keys() - {"variant_of"} == original.keys()
        assert "gate" not in case["tags"]


def test_likely_calls_are_asked_in_many_ways():
    """Names and arguments, the right one not always in one place, at night."""
    calls = with_key("tool_choices")

    assert len(calls) >= 30
    assert len({case["begins"] for case in calls}) >= 4
    assert len({case["expected"]["answer"] for case in calls}) >= 10
    assert not any("gate" in case["tags"] for case in calls)


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
        choices = wanted.get("choices", wanted.get("tool_choices", [None]))
        assert wanted.get("answer") in choices
        if "needle" in wanted:
            assert re.search(rf"\b{wanted['needle']}\b", case["prompt"])
        if "tool_call" in wanted:
            assert set(wanted["tool_call"]) == {"name", "arguments"}


def test_the_suite_names_each_kind_once():
    """And every kind that has cases."""
    kinds = [b.kind for b in load_suite(FOLDER).behaviours]

    assert {*KEYS, *NIGHTLY, "robust", "robust_choice"} <= set(kinds)
    assert len(kinds) == len(set(kinds))


@pytest.mark.quant_slow
def test_every_prompt_survives_template_and_tokenizer():
    """Spaces, emoji and scripts as they are: nothing is lost before the model reads."""
    from harness.models.zoo import smollm2

    try:
        model = smollm2()
    except ModelError as error:
        pytest.skip(str(error))
    for case in CASES:
        asked = {k: case[k] for k in ("prompt", "messages", "text") if k in case}
        text = model.tokenizer.decode(model.prompt_tokens(asked))
        contents = [m["content"] for m in case.get("messages", [])]
        own = contents or [case.get("prompt", case.get("text"))]
        assert all(part in text for part in own), case["id"]
        assert model.tokenizer.encode(text) == model.prompt_tokens(asked)
        reply = case.get("reply", "")
        assert model.tokenizer.decode(model.tokenizer.encode(reply)) == reply
