"""A reply in another language than the reference's is seen, in one script too."""

from __future__ import annotations

import numpy as np
import pytest

from harness.behaviours.kinds import KINDS
from harness.behaviours.languages import language_of
from harness.behaviours.types import Reply
from harness.models.types import Case

TEXTS = {
    "English": "The boat was in the harbour, and it is not known to whom it belongs.",
    "German": "Das Boot lag im Hafen, und es ist nicht bekannt, wem es gehört oder wie "
    "lange es schon auf die Ausfahrt wartet.",
    "French": "Le bateau est dans le port et il n'est pas connu pour être le plus "
    "rapide de la région.",
    "Spanish": "El barco está en el puerto y no se sabe de quién es, pero los vecinos "
    "dicen que es del alcalde.",
    "Italian": "La barca è nel porto e non si sa di chi sono le reti sul molo, ma "
    "sono nuove.",
    "Portuguese": "O barco ficou no porto e não se sabe de quem é, mas os vizinhos "
    "dizem que é do prefeito da cidade.",
    "Dutch": "De boot ligt in de haven en het is niet bekend van wie zij is, maar een "
    "buurman heeft er een naam voor.",
}


def reply(text):
    ids = np.arange(len(text))
    return Reply(text=text, tokens=ids, probabilities=np.ones(len(text)), ended=True)


def right(text, reference):
    found = KINDS["language"].evaluate(
        [Case("c", {})],
        {"c": reply(text)},
        {},
        {"reference": None if reference is None else {"c": reply(reference)}},
    )
    return found["c"].right


@pytest.mark.parametrize("name", TEXTS)
def test_a_sentence_tells_its_language(name):
    """And is no other's."""
    assert name == language_of(TEXTS[name])


@pytest.mark.parametrize(
    "text",
    ["", "42", "Paris.", "The sea", "def f(x): return x", "Привет, мир", "la de"],
)
def test_what_does_not_tell_is_said_to_be_no_language(text):
    """Numbers, code, a word or two, other scripts."""
    assert language_of(text) == ""


def test_a_switch_of_the_language_is_wrong_and_silence_is_not():
    """Where either is not known nothing is lost, nor while a golden is recorded."""
    english, german = TEXTS["English"], TEXTS["German"]

    assert right(english, english)
    assert not right(german, english)
    assert right("42", english)
    assert right(german, "42")
    assert right(german, None)
