"""What a language model writes is judged as a user or a parser would judge it."""

import dataclasses
import json
import re

import numpy as np
import pytest

from harness.behaviours import fluency
from harness.behaviours.kinds import KINDS
from harness.behaviours.types import Reply
from harness.errors import CasesError, ConfigError
from harness.models.types import Case


def reply(text="", *, tokens=(), ended=True):
    return Reply(
        text=text,
        tokens=np.array(tokens or [ord(c) for c in text], dtype=np.int64),
        probabilities=np.ones(len(tokens or text), np.float32),
        ended=ended,
    )


def right(kind, written, wanted=None, *, key="", options=None, reference=None):
    """Whether one reply is right; None where it is not judged."""
    case = Case("c", {}, {key: wanted} if key else {})
    given = written if isinstance(written, Reply) else reply(written)
    before = None
    if reference is not None:
        before = reference if isinstance(reference, Reply) else reply(reference)
    found = KINDS[kind].evaluate(
        [case],
        {"c": given},
        options or {},
        {"reference": None if before is None else {"c": before}},
    )
    return found["c"].right if "c" in found else None


PERSON = {
    "type": "object",
    "required": ["name", "age"],
    "properties": {"name": {"type": "string"}, "age": {"type": "integer"}},
}


@pytest.mark.parametrize(
    ("text", "valid", "fits"),
    [
        ('{"name": "Tom", "age": 31}', True, True),
        ('```json\n{"name": "Tom", "age": 31}\n```', True, True),
        ('{"name": "Tom", "age": "31"}', True, False),
        ('{"name": "Tom", "age": true}', True, False),
        ('{"name": "Tom"}', True, False),
        ("[1, 2]", True, False),
        ('{"name": "Tom", "age": 31', False, False),
        ('Here: {"name": "Tom", "age": 31}', False, False),
        ('{"name": "Tom", "age": NaN}', False, False),
        ("", False, False),
    ],
)
def test_json_is_what_a_parser_takes(text, valid, fits):
    """A missing brace, a word before it or a wrong type is not what was asked."""
    assert valid == right("json", text, PERSON, key="json")
    assert fits == right("json_schema", text, PERSON, key="json")


def test_a_case_that_asks_for_no_json_is_not_judged_on_json():
    """Silence about a behaviour is no success of it."""
    assert right("json", "prose") is None


@pytest.mark.parametrize(
    "schema", [{"type": "objekt"}, {"pattern": "x"}, {"required": "name"}, []]
)
def test_a_schema_that_is_not_understood_is_refused(schema):
    """An unknown keyword would be a promise that nobody checks."""
    with pytest.raises((CasesError, ConfigError)):
        right("json_schema", "{}", schema, key="json")


@pytest.mark.parametrize(
    ("schema", "value", "expected"),
    [
        ({"enum": [1, "a"]}, True, False),
        ({"enum": [1, "a"]}, "a", True),
        ({"minimum": 1, "maximum": 2}, 3, False),
        ({"minItems": 1, "items": {"type": "string"}}, ["a", 1], False),
        ({"minItems": 1}, [], False),
        ({"properties": {"a": {}}, "additionalProperties": False}, {"b": 1}, False),
        ({"maxLength": 2}, "abc", False),
        ({"type": "integer"}, 2.0, True),
    ],
)
def test_every_keyword_of_a_schema_can_fail(schema, value, expected):
    """And says so of the value, not of its neighbours."""
    assert expected == right("json_schema", json.dumps(value), schema, key="json")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ('{"name": "get_weather", "arguments": {"city": "Paris"}}', True),
        ('{"name": "get_weather", "arguments": {"city": "paris"}}', True),
        ('{"name": "get_weather", "arguments": {"city": "Oslo"}}', False),
        ('{"name": "get_time", "arguments": {"city": "Paris"}}', False),
        ('{"name": "get_weather", "arguments": {}}', False),
        ("get_weather(Paris)", False),
    ],
)
def test_a_tool_call_names_function_and_arguments(text, expected):
    """A call that would do another thing is wrong, however well it parses."""
    wanted = {"name": "get_weather", "arguments": {"city": "Paris"}}

    assert expected == right("tool_call", text, wanted, key="tool_call")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("```python\ndef add(a, b):\n    return a + b\n```\nIt adds.", True),
        ("def add(a, b): return a + b", True),
        ("def plus(a, b): return a + b", False),
        ("def add(a, b) return a + b", False),
        ("", False),
    ],
)
def test_code_parses_and_defines_what_was_asked(text, expected):
    """It is read, never run."""
    assert expected == right("code", text, "add", key="code")


@pytest.mark.parametrize(
    ("rule", "good", "bad"),
    [
        ({"words": [1, 2]}, "two words", "now three words"),
        ({"lines": 1}, "one", "one\ntwo"),
        ({"sentences": 1}, "It rains.", "It rains. It pours."),
        ({"items": 3}, "a, b, c.", "a, b"),
        ({"numbered": 2}, "1. a\n2. b", "- a\n- b"),
        ({"bullets": 2}, "- a\n- b", "1. a\n2. b"),
        ({"case": "upper"}, "HELLO", "Hello"),
        ({"starts": "Dear"}, "Dear Tom", "Hi Tom"),
        ({"ends": "?"}, "why?", "why"),
        ({"one_of": ["yes", "no"]}, "yes.", "maybe"),
        ({"without": ["!"]}, "calm", "loud!"),
    ],
)
def test_a_format_is_kept_or_not(rule, good, bad):
    """Each rule has a text that keeps it and one that breaks it."""
    assert right("format", good, rule, key="format")
    assert not right("format", bad, rule, key="format")


def test_an_unknown_rule_of_a_format_is_refused():
    """A typing error must not pass for a rule that is kept."""
    with pytest.raises(CasesError, match="wrods"):
        right("format", "a", {"wrods": 1}, key="format")


@pytest.mark.parametrize(
    ("text", "expected"),
    [("3 + 4 = 7", True), ("7.0", True), ("3 + 4 = 8", False), ("seven", False)],
)
def test_the_last_number_is_the_result(text, expected):
    """What comes before is how it got there."""
    assert expected == right("arithmetic", text, 7, key="number")


def test_a_fact_stands_as_a_word():
    """Whatever its casing, and not inside another word."""
    assert right("fact", "It is PARIS.", "Paris", key="fact")
    assert right("fact", "Rome it is", ["Roma", "Rome"], key="fact")
    assert not right("fact", "Comparison", "Paris", key="fact")
    assert not right("needle", "I do not know", "lantern", key="needle")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("The train leaves at 14:30.", True),
        ("The train to Vienna leaves at 15:30.", False),
        ("The train to Salzburg leaves at 14:30.", False),
        ("", False),
    ],
)
def test_an_answer_stays_within_its_context(text, expected):
    """A number or a name that nobody gave is invented."""
    context = "The train to Vienna leaves at 14:30. When does it leave?"

    assert expected == right("grounded", text, context, key="context")


def test_loops_and_repeated_text_are_seen():
    """A group of tokens four times in a row; a text that deflates to nothing."""
    assert not right("repetition", reply("x", tokens=[5, 1, 2, 1, 2, 1, 2, 1, 2]))
    assert right("repetition", reply("x", tokens=[5, 1, 2, 1, 2, 1, 2, 9, 2]))
    same = "The garden was very green and very quiet that day. " * 8
    assert not right("repetition", reply(same, tokens=list(range(99))))
    other = " ".join(f"{n} sheep and {n * n} goats walked by." for n in range(12))
    assert right("repetition", reply(other, tokens=list(range(99))))


def test_an_ending_that_never_comes():
    """The end token is missing: a user waits for the limit."""
    assert right("ending", reply("x", ended=True), 1, key="ends")
    assert not right("ending", reply("x", ended=False), 1, key="ends")


def test_length_and_similarity_are_measured_from_the_reference():
    """Too long and too short; too many tokens of others; alone there is no drift."""
    ten, five, four = (reply("x", tokens=list(range(n))) for n in (10, 5, 4))

    assert right("length", five, reference=ten)
    assert not right("length", four, reference=ten)
    assert not right("length", ten, reference=four)
    assert right("similarity", five, reference=ten)
    assert not right("similarity", four, reference=ten)
    assert not right("same_reply", five, reference=ten)
    assert right("length", four)
    assert right("similarity", four)


def test_script_and_refusal_follow_the_reference():
    """Cyrillic or a refusal out of nowhere is a flip; the reference's own is none."""
    assert not right("script", "Привет", reference="hello")
    assert right("script", "hello", reference="Привет hello")
    assert not right("refusal", "I'm sorry, I can’t help.", reference="Boil water.")
    assert not right("refusal", "Boil water.", reference="I cannot do that.")
    assert right("refusal", "I am unable to.", reference="I cannot do that.")


@pytest.mark.parametrize("leak", ["<|im_end|>", "<|im_start|>user", "</s>", "[INST]"])
def test_control_tokens_do_not_leak(leak):
    """What belongs to the template is not for people."""
    assert not right("special_tokens", f"Paris.{leak}")
    assert right("special_tokens", "a < b | c > d and <html>")


def test_broken_characters():
    """Half a character in the text is broken; at a cut it is only unfinished."""
    assert not right("utf8", "caf\N{REPLACEMENT CHARACTER} au lait")
    assert not right("utf8", reply("caf\N{REPLACEMENT CHARACTER}", ended=True))
    assert right("utf8", reply("caf\N{REPLACEMENT CHARACTER}", ended=False))


@pytest.fixture
def pairs(monkeypatch):
    """A tokenizer of letters, in which `ab` is a token; it cannot write `#`."""

    class Pairs:
        def __init__(self, folder):
            pass

        def encode(self, text):
            return [
                0 if part == "ab" else ord(part) for part in re.findall("ab|.", text)
            ]

        def decode(self, ids):
            return "".join("ab" if i == 0 else chr(i) for i in ids).replace("#", "")

    fluency._tokenizer.cache_clear()
    monkeypatch.setattr("harness.models.chat.ChatTokenizer", Pairs)
    yield
    fluency._tokenizer.cache_clear()


@pytest.mark.parametrize(
    ("tokens", "text", "prompt", "right"),
    [
        ((0, 99), "abc", "xab", True),
        ((0, 99, 7), "abc", "", True),
        ((97, 98, 99), "abc", "", False),
        ((0, 99), "abc", "x#", False),
        ((), "", "", True),
    ],
)
def test_prompt_and_reply_survive_being_tokenized_again(
    pairs,
    tokens,
    text,
    prompt,
    right,
):
    """Other tokens of the same text are another history; end tokens are none of it."""
    written = dataclasses.replace(
        reply(text, tokens=tokens or (7,)), prompt=prompt, text=text
    )
    found = KINDS["round_trip"].evaluate(
        [Case("c", {}, {})], {"c": written}, {}, {"tokenizer": "t", "ends": [7]}
    )

    assert found["c"].right is right


def test_a_reply_cut_within_a_character_has_no_round_trip(pairs):
    """By its limit; one that ended so is wrong."""
    cut = reply("a\N{REPLACEMENT CHARACTER}", tokens=(97, 5), ended=False)

    assert right("round_trip", cut) is None
    assert right("round_trip", dataclasses.replace(cut, ended=True)) is False


def test_answers_are_right_by_everything_that_is_expected():
    """One broken expectation breaks the answer; none is no answer."""
    case = Case("c", {}, {"fact": "Paris", "ends": True})

    def answered(text, ended):
        found = KINDS["answers"].evaluate(
            [case, Case("d", {}, {"generate": 3})],
            {"c": reply(text, ended=ended), "d": reply("x")},
            {},
            {},
        )
        return {name: answer.right for name, answer in found.items()}

    assert {"c": True} == answered("In Paris.", ended=True)
    assert {"c": False} == answered("In Rome.", ended=True)
    assert {"c": False} == answered("In Paris.", ended=False)
