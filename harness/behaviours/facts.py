"""Replies that are true: sums, facts, what a given text says and no more."""

from __future__ import annotations

import functools
import re
from collections.abc import Mapping, Sequence
from typing import Any, Final

import numpy as np

from harness.behaviours.each_reply import Seen, of_each
from harness.behaviours.types import Answer, BehaviourKind, CaseOutputs
from harness.errors import CasesError
from harness.models.types import Case

_NUMBER: Final = re.compile(r"-?\d[\d,]*(?:\.\d+)?")
#: A word that starts with a capital though no sentence starts there.
_NAME: Final = re.compile(r"(?<![.!?:\n\"'(\-*] )(?<!^)\b[A-Z][a-zà-ÿ]+\b")


def numbers_in(text: str) -> list[float]:
    """Every number, commas between digits dropped."""
    found = [number.replace(",", "") for number in _NUMBER.findall(text)]
    return [float(number) for number in found]


def names_in(text: str) -> list[str]:
    """Capitalised words that do not start a sentence."""
    return _NAME.findall(text)


def number(seen: Seen) -> bool:
    """The last number of the reply: what comes before is how it got there."""
    found = numbers_in(seen.text)
    return bool(found) and found[-1] == float(seen.wanted)


def fact(seen: Seen) -> bool:
    """One of the texts is in the reply, whatever its casing."""
    wanted = [seen.wanted] if isinstance(seen.wanted, str) else seen.wanted
    text = seen.text.casefold()
    return any(_whole(one.casefold(), text) for one in wanted)


def _whole(word: str, text: str) -> bool:
    """Whether a word stands in a text, not as a part of another."""
    return re.search(rf"(?<!\w){re.escape(word)}(?!\w)", text) is not None


def grounded(seen: Seen) -> bool:
    """No number and no name that neither the context nor the question has."""
    if not isinstance(seen.wanted, str):
        raise CasesError(f"case {seen.case.id!r}: expected.context should be a text")
    if not seen.text:
        return False
    known = seen.wanted.casefold()
    given = set(numbers_in(seen.wanted))
    invented = any(number not in given for number in numbers_in(seen.text))
    return not invented and all(
        _whole(name.casefold(), known) for name in names_in(seen.text)
    )


def choose(
    cases: Sequence[Case],
    outputs: CaseOutputs,
    options: Mapping[str, Any],
    metadata: Mapping[str, Any],
    *,
    key: str = "choices",
) -> dict[str, Answer]:
    """The likeliest of some continuations, by the logits of their first tokens.

    The logits are those of the first of the case's positions, after the prompt.
    """
    from pathlib import Path

    from harness.models.chat import ChatTokenizer

    tokenizer = ChatTokenizer(Path(str(metadata.get("tokenizer"))))
    name = str(options.get("output", "logits"))
    answers = {}
    for case in cases:
        choices = case.expected.get(key)
        if choices is None:
            continue
        first = [tokenizer.encode(choice)[:1] for choice in choices]
        if len({tuple(ids) for ids in first}) < len(choices) or [] in first:
            raise CasesError(
                f"case {case.id!r}: two of {choices} start with the same token, or "
                "one has none: likelihood cannot tell them apart"
            )
        row = np.asarray(outputs[case.id][name], np.float64)[0, 0]
        scores = row[[ids[0] for ids in first]]
        best = choices[int(scores.argmax())]
        right = bool(np.isfinite(scores).all()) and best == case.expected["answer"]
        answers[case.id] = Answer(best, right)
    return answers


KINDS: Final = (
    of_each(
        "arithmetic", number, key="number", summary="the reply's last number is it"
    ),
    of_each("fact", fact, key="fact", summary="the fact stands in the reply"),
    of_each(
        "needle",
        fact,
        key="needle",
        summary="what was said somewhere in a long text stands in the reply",
    ),
    of_each(
        "grounded",
        grounded,
        key="context",
        summary="no number and no name that the given text has not",
    ),
    BehaviourKind(
        name="choice",
        evaluate=choose,
        options={"output": "name of the logits; default: logits"},
        summary="the likeliest of some answers is the right one",
    ),
    BehaviourKind(
        name="tool_choice",
        evaluate=functools.partial(choose, key="tool_choices"),
        options={"output": "name of the logits; default: logits"},
        summary="the likeliest of some functions, or arguments, is the right one",
    ),
)
