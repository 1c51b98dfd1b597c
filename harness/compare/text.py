"""Texts: how many edits apart, and whether they can be read by a machine."""

from __future__ import annotations

import json
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class TextComparison:
    """Two texts."""

    equal: bool
    #: Fewest insertions, deletions and substitutions of characters, and of words.
    edits: int
    word_edits: int
    #: Edits over the reference's length: character and word error rate. Of an empty
    #: reference: 0 if the candidate is empty too, else 1 for every character or word.
    character_error_rate: float
    word_error_rate: float
    #: First character that differs; None: equal.
    first_divergence: int | None
    #: Candidate over reference length; 1 if both are empty.
    length_ratio: float
    #: Whether the candidate is text: not empty, no replacement or control characters.
    readable: bool
    #: Whether it is one JSON value.
    valid_json: bool


def compare_text(reference: str, candidate: str) -> TextComparison:
    """Compare two texts, as they are: nothing is normalised or stripped."""
    edits = edit_distance(reference, candidate)
    words = reference.split()
    word_edits = edit_distance(words, candidate.split())
    return TextComparison(
        equal=reference == candidate,
        edits=edits,
        word_edits=word_edits,
        character_error_rate=edits / max(len(reference), 1),
        word_error_rate=word_edits / max(len(words), 1),
        first_divergence=_first_divergence(reference, candidate),
        length_ratio=len(candidate) / len(reference)
        if reference
        else float(len(candidate) or 1),
        readable=is_readable(candidate),
        valid_json=is_json(candidate),
    )


def edit_distance(first: Sequence[str], second: Sequence[str]) -> int:
    """Levenshtein's distance, by rows of his table; memory is that of one row."""
    if len(first) < len(second):
        first, second = second, first
    row = list(range(len(second) + 1))
    for i, left in enumerate(first, start=1):
        diagonal, row[0] = row[0], i
        for j, right in enumerate(second, start=1):
            cost = diagonal + (left != right)
            diagonal = row[j]
            row[j] = min(cost, diagonal + 1, row[j - 1] + 1)
    return row[-1]


def is_readable(text: str) -> bool:
    """Text that a decoder did not break: some, and nothing a person cannot see."""
    return bool(text.strip()) and not any(
        character == "\N{REPLACEMENT CHARACTER}"
        or (
            unicodedata.category(character) in ("Cc", "Cs")
            and character not in "\t\n\r"
        )
        for character in text
    )


def is_json(text: str) -> bool:
    """Whether the whole text is one JSON value; NaN and Infinity are not JSON."""

    def refuse(name: str) -> None:
        raise ValueError(name)

    try:
        json.loads(text, parse_constant=refuse)
    except (ValueError, RecursionError):
        return False
    return True


def _first_divergence(first: str, second: str) -> int | None:
    for index, (left, right) in enumerate(zip(first, second, strict=False)):
        if left != right:
            return index
    return None if len(first) == len(second) else min(len(first), len(second))
