"""Replies as texts: loops, length, endings, scripts, refusals, broken characters."""

from __future__ import annotations

import functools
import re
import unicodedata
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np

from harness.behaviours.each_reply import Seen, of_each
from harness.compare.text import edit_distance

#: A loop: a group of up to this many tokens, so many times in a row.
LOOP_WIDTH: Final = 8
LOOP_TIMES: Final = 4
#: Texts of this many bytes or more that deflate to less than a sixth: English prose
#: does not, nor do lists and code; the same sentence over and over does.
LONG_TEXT: Final = 200
SMALLEST_SHARE: Final = 1 / 6

_SPECIAL: Final = re.compile(r"<\|[^|<>\n]{1,40}\|>|</?s>|\[/?INST\]|<(?:unk|pad)>")
_REFUSALS: Final = (
    "i cannot",
    "i can't",
    "i can not",
    "i'm sorry",
    "i am sorry",
    "i'm unable",
    "i am unable",
    "i am not able",
    "i'm not able",
    "i don't have the ability",
    "as an ai",
)


def loops(tokens: Sequence[int]) -> bool:
    """Whether a group of up to 8 tokens stands 4 times in a row."""
    for width in range(1, LOOP_WIDTH + 1):
        run = 0
        for index in range(width, len(tokens)):
            run = run + 1 if tokens[index] == tokens[index - width] else 0
            if run >= width * (LOOP_TIMES - 1):
                return True
    return False


def compressed_share(text: str) -> float:
    """Bytes after deflating over bytes before; 1 for an empty text."""
    data = text.encode()
    return len(zlib.compress(data, 9)) / len(data) if data else 1.0


def scripts_in(text: str) -> set[str]:
    """Scripts of the letters, by the first word of their Unicode names."""
    return {
        unicodedata.name(letter, "?").split(" ")[0]
        for letter in text
        if letter.isalpha()
    }


def refuses(text: str) -> bool:
    """Whether a reply starts by declining."""
    start = text.strip().casefold().replace("’", "'")[:120]
    return any(phrase in start for phrase in _REFUSALS)


def _repetition(seen: Seen) -> bool:
    text = seen.reply.text
    small = len(text.encode()) >= LONG_TEXT and compressed_share(text) < SMALLEST_SHARE
    return not small and not loops(seen.reply.tokens.tolist())


def ending(seen: Seen) -> bool:
    """It ends by itself before the limit on its length."""
    return seen.reply.ended


def _length(seen: Seen) -> bool:
    """At most `factor` times longer or shorter than the reference, in tokens."""
    if seen.reference is None:
        return True
    factor = float(seen.options.get("factor", 2.0))
    own, other = len(seen.reply.tokens), len(seen.reference.tokens)
    return own <= factor * other and other <= factor * own


def _script(seen: Seen) -> bool:
    """No script that the reference did not use."""
    if seen.reference is None:
        return True
    return scripts_in(seen.text) <= scripts_in(seen.reference.text)


def _refusal(seen: Seen) -> bool:
    """It declines where the reference does, and only there."""
    if seen.reference is None:
        return True
    return refuses(seen.text) == refuses(seen.reference.text)


def _special(seen: Seen) -> bool:
    """No control token of a chat template in what a person reads."""
    return not _SPECIAL.search(seen.reply.text)


def _utf8(seen: Seen) -> bool:
    """Whole characters; a reply that was cut off may end within one."""
    text = seen.reply.text
    if not seen.reply.ended:
        text = text.rstrip("\N{REPLACEMENT CHARACTER}")
    return "\N{REPLACEMENT CHARACTER}" not in text


@functools.lru_cache(maxsize=1)
def _tokenizer(folder: str) -> Any:
    from harness.models.chat import ChatTokenizer

    return ChatTokenizer(Path(folder))


def _round_trip(seen: Seen) -> bool | None:
    """Prompt and reply are what a chat's next turn reads, token by token.

    A reply that was cut off within a character says nothing.
    """
    reply, broken = seen.reply, "\N{REPLACEMENT CHARACTER}"
    if not reply.ended and reply.text.endswith(broken):
        return None
    tokenizer = _tokenizer(str(seen.metadata.get("tokenizer")))
    if tokenizer.decode(tokenizer.encode(reply.prompt)) != reply.prompt:
        return False
    ends = set(seen.metadata.get("ends", ()))
    written = [token for token in reply.tokens.tolist() if token not in ends]
    return bool(tokenizer.encode(reply.text) == written)


def _similarity(seen: Seen) -> bool:
    """Of the tokens of the longer text, at most 1 - `least` were edited."""
    if seen.reference is None:
        return True
    own, other = seen.reply.tokens.tolist(), seen.reference.tokens.tolist()
    longer = max(len(own), len(other), 1)
    share = 1 - edit_distance(other, own) / longer
    return share >= float(seen.options.get("least", 0.5))


def _same(seen: Seen) -> bool:
    """The reference's reply, token by token."""
    if seen.reference is None:
        return True
    return np.array_equal(seen.reply.tokens, seen.reference.tokens)


KINDS: Final = (
    of_each(
        "repetition",
        _repetition,
        summary="no group of tokens over and over, no text that deflates to nothing",
    ),
    of_each("ending", ending, key="ends", summary="the reply ends by itself"),
    of_each(
        "length",
        _length,
        options={"factor": "how many times longer or shorter is too far; default 2"},
        relative=True,
        summary="about as long as the reference's reply",
    ),
    of_each(
        "script",
        _script,
        relative=True,
        summary="no script that the reference did not use",
    ),
    of_each(
        "refusal",
        _refusal,
        relative=True,
        summary="declines where the reference declines",
    ),
    of_each("special_tokens", _special, summary="no control tokens in the text"),
    of_each("utf8", _utf8, summary="no broken characters"),
    of_each(
        "round_trip",
        _round_trip,
        summary="prompt and reply, tokenized again, are the tokens that they were",
    ),
    of_each(
        "similarity",
        _similarity,
        options={"least": "share of the tokens that stays; default 0.5"},
        relative=True,
        summary="most tokens are those of the reference's reply",
    ),
    of_each(
        "same_reply",
        _same,
        relative=True,
        summary="the reference's reply, token by token",
    ),
)
