"""Properties that every language model must have, whatever its logits are.

Nothing is known of the right logits, only that ways to ask the same must agree. A
prompt is drawn, asked in both ways, and shortened where they do not. How far they may
be apart is the speaker's to say: it depends on the arithmetic, and on the prompt.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from harness.properties.strategies import load_profiles

Array = np.ndarray[Any, np.dtype[Any]]
Inputs = dict[str, Array]

#: What prompts are made of, the plainest first: where shrinking ends.
PARTS: Final = (
    " a",
    " the sea was calm",
    " 7",
    " 3.14159",
    " 1,000,000",
    "\n",
    "    ",
    "\t",
    ' {"a": [1, 2]}',
    " def f(x):\n    return x",
    " größer",
    " Привет",
    " 你好",
    " مرحبا",
    " 😀👩‍💻",
    " <|im_start|>user",
    " AAAAAAAA",
)
#: Parts of the longest prompt; rows of the largest batch; tokens of padding, of a
#: piece, and of what follows, at most.
_PARTS, _ROWS, _MORE = 40, 9, 24
#: Share of Hypothesis's examples that a property of a language model gets: each runs
#: the model a few times.
_SHARE: Final = 4


@dataclass(frozen=True, kw_only=True)
class Speaker:
    """A language model under test.

    Attributes:
        name: shown in failures.
        session: with `run(inputs)` of `input_ids`, `attention_mask` and `positions`,
            int64 (rows, tokens), which gives `logits` (rows, positions, vocabulary);
            and with `run_in_pieces(inputs, size)` where prompts can be read so.
        encode: text to token ids.
        limit: largest relative L2 between two ways to ask one prompt, given its inputs
            and both logits.
    """

    name: str
    session: Any
    encode: Callable[[str], list[int]]
    limit: Callable[[Inputs, Array, Array], float]


@dataclass(frozen=True)
class LanguageProperty:
    """One property.

    Attributes:
        name: shown in test ids.
        ask: another way to ask a prompt: session, its inputs and a number that is
            drawn, to logits.
        needs: what a session must have; "": nothing.
    """

    name: str
    ask: Callable[[Any, Inputs, int], Array]
    needs: str = ""


def inputs_of(ids: list[int]) -> Inputs:
    """A prompt of one row; logits of all its positions are wanted."""
    row = np.array([ids], dtype=np.int64)
    return {
        "input_ids": row,
        "attention_mask": np.ones_like(row),
        "positions": np.arange(row.size, dtype=np.int64)[None],
    }


def _other(ids: Array, row: int) -> Array:
    """Another prompt of as many tokens, made of the same ones."""
    return np.roll(ids, row, axis=1)[:, ::-1] if row else ids


def beside_others(session: Any, inputs: Inputs, number: int) -> Array:
    """In a batch, in any of its rows."""
    rows, at = 2 + number % (_ROWS - 1), number % (2 + number % (_ROWS - 1))
    ids = inputs["input_ids"]
    table = np.concatenate([_other(ids, (row - at) % rows) for row in range(rows)])
    asked = {name: np.repeat(a, rows, axis=0) for name, a in inputs.items()}
    logits: Array = session.run({**asked, "input_ids": table})["logits"]
    return logits[at : at + 1]


def after_padding(session: Any, inputs: Inputs, number: int) -> Array:
    """After tokens of padding, which the mask hides."""
    width = 1 + number % _MORE
    fill = np.repeat(inputs["input_ids"][:, -1:], width, axis=1)
    logits: Array = session.run(
        {
            "input_ids": np.concatenate([fill, inputs["input_ids"]], axis=1),
            "attention_mask": np.concatenate(
                [np.zeros_like(fill), inputs["attention_mask"]], axis=1
            ),
            "positions": inputs["positions"] + width,
        }
    )["logits"]
    return logits


def before_others(session: Any, inputs: Inputs, number: int) -> Array:
    """Before other tokens: what follows does not change the past."""
    ids = inputs["input_ids"]
    more = ids[:, (np.arange(1 + number % _MORE) + number) % ids.shape[1]]
    logits: Array = session.run(
        {
            "input_ids": np.concatenate([ids, more], axis=1),
            "attention_mask": np.concatenate(
                [inputs["attention_mask"], np.ones_like(more)], axis=1
            ),
            "positions": inputs["positions"],
        }
    )["logits"]
    return logits


def in_pieces(session: Any, inputs: Inputs, number: int) -> Array:
    """Through the cache, some tokens at a time: a prefix is what it was."""
    logits: Array = session.run_in_pieces(inputs, 1 + number % _MORE)["logits"]
    return logits


LANGUAGE_PROPERTIES: Final[Mapping[str, LanguageProperty]] = {
    entry.name: entry
    for entry in (
        LanguageProperty("batch_invariant", beside_others),
        LanguageProperty("padding_invariant", after_padding),
        LanguageProperty("future_blind", before_others),
        LanguageProperty("prefix_consistent", in_pieces, "run_in_pieces"),
    )
}


def prompts() -> st.SearchStrategy[str]:
    """Texts of words, numbers, code, white space, and scripts other than Latin."""
    parts = st.lists(st.sampled_from(PARTS), min_size=1, max_size=_PARTS)
    return parts.map("".join)


def check_language(
    speaker: Speaker, entry: LanguageProperty, *, profile: str = "gate"
) -> None:
    """Run a property; a quarter of the profile's examples.

    Args:
        speaker: what is under test.
        entry: the property.
        profile: "gate" (the same examples every time), "dev" or "nightly".

    Raises:
        AssertionError: with the shortest prompt that was found; or no prompt has two
            tokens, so that nothing was asked.
    """
    load_profiles()
    found = settings.get_profile(profile)
    chosen = settings(
        found,
        max_examples=max(1, found.max_examples // _SHARE),
        phases=[Phase.generate, Phase.shrink],
        report_multiple_bugs=False,
    )
    asked = 0

    def holds(text: str, number: int) -> None:
        nonlocal asked
        ids = speaker.encode(text)
        if len(ids) > 1:
            asked += 1
            _agrees(speaker, entry, text, ids, number)

    chosen(given(prompts(), st.integers(0, 999))(holds))()
    assert asked, f"{speaker.name}: no prompt has two tokens: nothing was asked"


def _agrees(
    speaker: Speaker, entry: LanguageProperty, text: str, ids: list[int], number: int
) -> None:
    inputs = inputs_of(ids)
    plain = np.asarray(speaker.session.run(inputs)["logits"], np.float64)
    other = np.asarray(entry.ask(speaker.session, inputs, number), np.float64)
    apart = float(np.linalg.norm(other - plain) / np.linalg.norm(plain))
    limit = speaker.limit(inputs, plain, other)
    # Not `apart > limit`: NaN is beyond every limit.
    if not apart <= limit:
        raise AssertionError(
            f"{speaker.name}: {entry.name}: relative difference={apart:.3g}, but "
            f"should be at most {limit:.3g} [prompt {text!r}, {len(ids)} tokens, "
            f"number {number}]"
        )
