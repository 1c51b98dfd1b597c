"""Which language a reply is written in: a model that switches is no help to a reader.

Scripts tell Greek from Russian, but not Spanish from English. Small words do: they are
a third to a half of any running text, and no language shares most of its own.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Final

from harness.behaviours.each_reply import Seen, of_each

#: Small words of languages in Latin script, of which no other here has the most.
_WORDS: Final[Mapping[str, frozenset[str]]] = {
    name: frozenset(words.split())
    for name, words in {
        "Dutch": "de het een en van is dat niet met voor op zijn aan ook maar naar dit "
        "wordt bij uit hij zij wij worden heeft",
        "English": "the of and to in is that it for was with as on be at this are not "
        "you from have or by they which",
        "French": "le la les de des et est un une que qui dans pour pas sur au avec ce "
        "il elle nous vous sont plus être",
        "German": "der die das und ist nicht ein eine zu den von mit sich auf für im "
        "dem auch es als wir sie werden oder wird",
        "Italian": "il la di che è e un una per non sono con del della gli le nel si "
        "come anche ma questo alla più essere",
        "Portuguese": "o a de que e do da em um uma para não com os as no na por mais "
        "é se como mas são você",
        "Spanish": "el la de que y en los un una por con no las se del es para al lo "
        "como más pero su sus está",
    }.items()
}
#: Small words that are enough to tell; and how many times those of any other language.
_ENOUGH: Final = 5
_TIMES: Final = 1.5
_WORD: Final = re.compile(r"[^\W\d_]+")


def language_of(text: str) -> str:
    """The language of a text in Latin script; "" where its small words do not tell."""
    words = _WORD.findall(text.casefold())
    counts = {
        name: sum(word in small for word in words) for name, small in _WORDS.items()
    }
    (best, most), (_, second) = sorted(counts.items(), key=lambda kv: -kv[1])[:2]
    return best if most >= _ENOUGH and most >= _TIMES * second else ""


def _language(seen: Seen) -> bool:
    """Not another language than the reference's, where both are known."""
    if seen.reference is None:
        return True
    own, other = language_of(seen.text), language_of(seen.reference.text)
    return not own or not other or own == other


KINDS: Final = (
    of_each(
        "language",
        _language,
        relative=True,
        summary="written in the reference's language, by its small words",
    ),
)
