"""Properties of a language model: a sound one has them all, a faulty one does not."""

from __future__ import annotations

import re

import numpy as np
import pytest

from harness.backends.registry import load_registry
from harness.errors import UnsupportedError
from harness.execution.speakers import Speakers
from harness.properties.language import (
    LANGUAGE_PROPERTIES,
    Speaker,
    check_language,
)
from tests.models.tiny_language import cached_in, write_tiny_suite

torch = pytest.importorskip("torch")

#: What follows `HEAD` of `tiny_language`.
SUITE = """\

[scheme.fp8]
base = "fp8_e4m3"
keep = ["lm_head"]

[scheme.weights]
base = "fp8_weight_only"
keep = ["lm_head"]

[[target]]
backend = "torch"
scheme = "fp8"

[[target]]
backend = "torch"
scheme = "weights"
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    texts = (f"{'the sea ' * (1 + i % 5)}{i}" for i in range(16))
    records = [{"id": t, "text": t} for t in texts]
    with cached_in(tmp_path_factory.mktemp("tiny"), threads="1") as found:
        write_tiny_suite(found, SUITE, records, seed=5, context=2048)
        yield found


@pytest.fixture(scope="module")
def speakers(folder):
    return Speakers(folder, load_registry())


@pytest.mark.parametrize("entry", LANGUAGE_PROPERTIES.values(), ids=lambda e: e.name)
@pytest.mark.parametrize("name", ["reference", "torch/fp8", "torch/weights"])
def test_a_sound_model_has_every_property(speakers, name, entry):
    """Within last bits; with quantized inputs, within two draws of their noise."""
    speaker = speakers.reference() if name == "reference" else speakers.target(name)

    check_language(speaker, entry)


class Faulty:
    """A session with a fault that shows only sometimes."""

    def __init__(self, session, fault):
        self._session, self._fault = session, fault

    def run(self, inputs):
        logits = np.array(self._session.run(inputs)["logits"])
        ids, mask = inputs["input_ids"], inputs["attention_mask"]
        wrong = np.zeros(logits.shape[:2], bool)
        if self._fault == "rows from the fifth on":
            wrong[4:] = True
        elif self._fault == "padding before digits":
            digits = np.isin(ids, [3 + byte for byte in b"0123456789"]).any(axis=1)
            wrong[(mask == 0).any(axis=1) & digits] = True
        elif self._fault == "the last token":
            wrong[:] = (ids[:, -1] > 100)[:, None]
        logits[wrong] *= 1.01
        return {"logits": logits}

    def run_in_pieces(self, inputs, size):
        logits = np.array(self._session.run_in_pieces(inputs, size)["logits"])
        if self._fault == "the ninth line of the cache" and logits.shape[1] > 9:
            logits[:, 9:] *= 1.01
        return {"logits": logits}


@pytest.mark.parametrize(
    ("fault", "name", "tokens"),
    [
        ("rows from the fifth on", "batch_invariant", 2),
        ("padding before digits", "padding_invariant", 2),
        ("the last token", "future_blind", 17),
        ("the ninth line of the cache", "prefix_consistent", 17),
    ],
)
def test_a_fault_is_found_and_its_prompt_is_short(speakers, fault, name, tokens):
    """At most one of the parts that prompts are made of: a plain one, or two tokens."""
    sound = speakers.reference()
    faulty = Speaker(
        name="faulty",
        session=Faulty(sound.session, fault),
        encode=sound.encode,
        limit=sound.limit,
    )

    with pytest.raises(AssertionError, match=f"faulty: {name}: relative") as caught:
        check_language(faulty, LANGUAGE_PROPERTIES[name])
    shown = re.search(r"prompt '.*', (\d+) tokens, number \d+\]", str(caught.value))
    assert shown
    assert int(shown[1]) <= tokens


def test_logits_that_are_no_numbers_are_no_agreement(speakers):
    """NaN is beyond every limit."""
    sound = speakers.reference()

    class Broken(Faulty):
        def run(self, inputs):
            return {"logits": self._session.run(inputs)["logits"] * np.nan}

    broken = Speaker(
        name="broken",
        session=Broken(sound.session, ""),
        encode=sound.encode,
        limit=lambda *_: 1.0,
    )
    with pytest.raises(AssertionError, match="difference=nan"):
        check_language(broken, LANGUAGE_PROPERTIES["padding_invariant"])


def test_prompts_without_tokens_ask_nothing(speakers):
    """Which is no pass."""
    sound = speakers.reference()
    mute = Speaker(
        name="mute", session=None, encode=lambda _: [1], limit=lambda *_: 0.0
    )

    assert sound.encode(" 7")
    with pytest.raises(AssertionError, match="nothing was asked"):
        check_language(mute, LANGUAGE_PROPERTIES["future_blind"])


def test_a_model_of_other_inputs_is_refused(tmp_path):
    """There is nothing to ask."""
    (tmp_path / "suite.toml").write_text(
        '[suite]\nname = "v"\nmodel = "silent:made"\ncases = "c.jsonl"\n'
        '[[target]]\nbackend = "torch"\nscheme = "int8"\n'
    )
    (tmp_path / "c.jsonl").write_text("{}")
    (tmp_path / "silent.py").write_text(
        "import torch\ndef made():\n"
        "    return torch.nn.Linear(2, 2), {'x': torch.zeros(1, 2)}\n"
    )
    with pytest.raises(UnsupportedError, match="no language model"):
        Speakers(tmp_path, load_registry())
