"""Defects of a server's answers: what a client sees changes, and nothing else."""

from __future__ import annotations

import numpy as np
import pytest

from harness.backends.protocol import Generated, Outputs, Request
from harness.defects import DEFECTS, PlantedBackend, Planting
from harness.defects.language import ANSWERS
from harness.errors import UnsupportedError

NAMES = [defect.name for defect in ANSWERS]
END, START = 0, 1
WIDTH = 40
#: What the model replies to a prompt that ends with a token; \x01 and \x02 are halves
#: of one character.
TEXTS = {5: "ab\ncd\nef", 6: "xy", 7: "1\x01\x022", 8: "hello"}


IDS = {c: n for n, c in enumerate("\x00\x01\x02abcdefhloxy12\n<d>|é\ufffd", 2)}
LETTERS = {n: c for c, n in IDS.items()} | {END: "<d>", START: "|", 30: "ll"}


class Letters:
    """A tokenizer of letters; "ll" is a token too, and halves make an é."""

    def encode(self, text):
        found = []
        while text:
            size = 2 if text.startswith("ll") else 1
            found.append(30 if size == 2 else IDS[text[0]])
            text = text[size:]
        return found

    def decode(self, ids):
        text = "".join(LETTERS[i] for i in ids)
        whole = text.replace("\x01\x02", "é")
        return whole.replace("\x01", "\ufffd").replace("\x02", "\ufffd")


class Model:
    """What a language model has to be for its answers to go wrong."""

    name = "letters"

    def __init__(self):
        self.tokenizer = Letters()
        self.metadata = {"ends": [END]}


class Session:
    """Logits tell the token and its place; replies depend on the last but one token."""

    def run(self, inputs, *, capture=()):
        assert set(inputs) == {"input_ids", "attention_mask", "positions"}
        rows = []
        for ids, mask, where in zip(*inputs.values(), strict=True):
            before = np.cumsum(mask) - 1
            logits = np.zeros((len(where), WIDTH), np.float32)
            for n, p in enumerate(where):
                logits[n, ids[p]] = 9
                logits[n, 39] = before[p]
                logits[n, 38] = ids[: p + 1].sum() / 100
            rows.append(logits)
        return Outputs({"logits": np.stack(rows), **{c: np.ones(1) for c in capture}})

    def run_in_pieces(self, inputs, size):  # noqa: ARG002
        return self.run(inputs)

    def generate(self, requests, *, batch):  # noqa: ARG002
        found = {}
        for r in requests:
            # "hello" is written letter by letter, which no tokenizer would do.
            text = TEXTS.get(int(r.tokens[-2]), "y" if r.tokens.size < 9 else "h")
            ids = [IDS[c] for c in text][: r.longest]
            if r.temperature:
                ids[0] = 3 + r.seed % 2
            ended = len(ids) < r.longest
            tokens = np.array(ids + [END] * ended, np.int64)
            p = np.linspace(0.5, 0.9, tokens.size).astype(np.float32)
            found[r.name] = Generated(tokens=tokens, probabilities=p, ended=ended)
        return found

    def close(self):
        pass


class Backend:
    """Any backend: nothing of it is open."""

    name = "any"

    def load(self, model, scheme):  # noqa: ARG002
        return Session()


def load(name, **changes):
    backend = PlantedBackend(Backend(), Planting(defect=name, **changes))
    return backend, backend.load(Model(), "a scheme")


def requests(**more):
    return [
        Request(
            name=f"r{n}", tokens=np.array([START, 20 + n, n, 9]), longest=16, **more
        )
        for n in TEXTS
    ]


def generated(name=None, asked=None, **changes):
    asked = asked or requests()
    session = Session() if name is None else load(name, **changes)[1]
    return session.generate(asked, batch=4)


def inputs(count=3):
    """Rows with another beginning each, the second one padded."""
    ids = np.array([[START, n, n + 1, 3, 4, 10 + n] for n in range(2, 2 + count)])
    mask = np.ones_like(ids)
    mask[1:2, :2] = 0
    return {
        "input_ids": ids,
        "attention_mask": mask,
        "positions": np.tile([3, 5], (count, 1)),
    }


def text(reply):
    return Letters().decode([t for t in reply.tokens.tolist() if t != END])


@pytest.mark.parametrize("name", NAMES)
def test_every_defect_fires_and_says_so(name):
    """At catalogue strength; a clean session beside gives something else."""
    asked = requests(temperature=0.5 if name == "answer_seed_ignored" else 0.0)
    backend, session = load(name)
    first = session.run(inputs())["logits"]
    second = session.run(inputs())["logits"]
    replies = session.generate(asked, batch=4)

    right = Session().run(inputs())["logits"]
    clean = Session().generate(asked, batch=4)
    moved = not (np.array_equal(first, right) and np.array_equal(second, right))
    for reply in clean:
        a, b = replies[reply], clean[reply]
        moved |= a.ended != b.ended or not np.array_equal(a.tokens, b.tokens)
        moved |= not np.array_equal(a.probabilities, b.probabilities)

    assert moved
    assert ("answer",) == backend.fired()


@pytest.mark.parametrize("name", NAMES)
def test_every_defect_changes_its_own_side_only(name):
    """Replies, or log-probabilities, or what both are asked; captures never."""
    both = {"answer_prefix_of_another", "answer_start_token_twice"}
    logits = {
        "answer_prompt_logprobs_shifted",
        "answer_top_logprobs_reversed",
        "answer_logprobs_tempered",
    }
    _, session = load(name)

    outputs = [session.run(inputs(), capture=["fc"]) for _ in range(2)][1]
    pieces = session.run_in_pieces(inputs(), 2)["logits"]
    replies = session.generate(requests(), batch=4)

    assert np.array_equal(outputs["fc"], np.ones(1))
    right = Session().run(inputs())["logits"]
    same = np.array_equal(outputs["logits"], right) and np.array_equal(pieces, right)
    assert same is (name not in logits | both)
    if name in logits:
        clean = generated()
        for reply in clean:
            assert np.array_equal(clean[reply].tokens, replies[reply].tokens)
    assert list(replies) == [r.name for r in requests()]


def test_a_reply_that_is_cut_off_claims_to_have_ended():
    """Half of it, without the token that ends it; the reference's is whole."""
    reply = generated("answer_cut_off")["r5"]

    assert "ab\nc" == text(reply)
    assert reply.ended
    assert END not in reply.tokens
    assert len(reply.tokens) == len(reply.probabilities)


def test_a_line_s_end_stops_a_reply():
    """The first, or the second; a reply of one line is left alone."""
    assert "ab\n" == text(generated("answer_stops_early")["r5"])
    assert "ab\ncd\n" == text(generated("answer_stops_early", strength=2)["r5"])
    assert "xy" == text(generated("answer_stops_early")["r6"])


def test_a_reply_whose_end_is_ignored_goes_on_to_its_limit():
    """The end stays among its tokens; a reply that was cut off is left alone."""
    reply = generated("answer_end_ignored")["r6"]
    short = [Request(name="a", tokens=np.array([START, 8, 9]), longest=3)]

    assert 16 == len(reply.tokens) == len(reply.probabilities)
    assert not reply.ended
    assert [END] == reply.tokens[2:3].tolist()
    assert 4 == len(generated("answer_end_ignored", strength=1)["r6"].tokens)
    assert "hel" == text(generated("answer_end_ignored", short)["a"])


def test_the_mark_of_the_end_is_shown_in_the_text():
    """And the reply ends as it did."""
    reply = generated("answer_special_tokens_shown")["r6"]

    assert "xy<d>" == text(reply)
    assert END == reply.tokens[-1]
    assert reply.ended


def test_pairs_of_requests_get_each_other_s_reply():
    """All of them, or at least one; the name stays."""
    every = generated("answer_of_another_request", strength=1.0)
    some = generated("answer_of_another_request", strength=0.01)

    assert ["xy", "ab\ncd\nef", "hello", "1é2"] == [text(r) for r in every.values()]
    assert 2 == sum(text(some[n]) != text(r) for n, r in generated().items())


def test_log_probabilities_of_a_reply_are_those_of_tokens_before():
    """Tokens stay."""
    clean, reply = generated()["r6"], generated("answer_logprobs_shifted")["r6"]

    assert np.array_equal(clean.tokens, reply.tokens)
    assert clean.probabilities[[0, 0, 1]].tolist() == reply.probabilities.tolist()


def test_log_probabilities_of_a_prompt_are_those_of_the_token_before():
    """As if they were asked there."""
    earlier = inputs()
    earlier["positions"] = earlier["positions"] - 1
    wrong = load("answer_prompt_logprobs_shifted")[1].run(inputs())["logits"]

    assert np.array_equal(Session().run(earlier)["logits"], wrong)


def test_the_likeliest_tokens_change_places():
    """Two of them; all others stay."""
    right = Session().run(inputs())["logits"]
    wrong = load("answer_top_logprobs_reversed")[1].run(inputs())["logits"]

    assert np.array_equal(np.sort(right), np.sort(wrong))
    assert 2 == (right != wrong).sum(axis=-1).max()
    assert (right.argmax(axis=-1) != wrong.argmax(axis=-1)).all()


def test_log_probabilities_are_divided_by_the_temperature():
    """Every one."""
    right = Session().run(inputs())["logits"]
    wrong = load("answer_logprobs_tempered", strength=0.5)[1].run(inputs())["logits"]

    assert np.array_equal(2 * right, wrong)


def test_a_reply_tokenized_again_has_its_text_and_other_tokens():
    """Log-probabilities stay what they were, cut to its length."""
    clean, reply = generated()["r8"], generated("answer_retokenized")["r8"]

    assert text(clean) == text(reply) == "hello"
    assert len(clean.tokens) - 1 == len(reply.tokens) == len(reply.probabilities)
    assert reply.probabilities.tolist() == clean.probabilities[:5].tolist()


def test_a_character_of_two_tokens_is_lost():
    """Token by token there is no character; other replies are left alone."""
    found = generated("answer_characters_broken")

    assert "1\ufffd\ufffd2" == text(found["r7"])
    assert generated()["r5"].tokens.tolist() == found["r5"].tokens.tolist()


def test_seed_and_temperature_are_not_those_of_the_request():
    """A greedy reply has no seed; a temperature is the server's."""
    warm = requests(temperature=0.5, seed=4)

    assert (
        generated("answer_seed_ignored", warm)["r6"].tokens[0]
        != generated(None, warm)["r6"].tokens[0]
    )
    backend, session = load("answer_seed_ignored")
    session.generate(requests(), batch=4)
    assert () == backend.fired()
    assert (
        generated("answer_temperature_ignored")["r6"].tokens[0]
        != generated()["r6"].tokens[0]
    )
    backend, session = load("answer_temperature_ignored", strength=0.5)
    session.generate(warm, batch=4)
    assert () == backend.fired()


def test_the_last_tokens_are_missing_before_the_end():
    """One, or all that there are."""
    assert "hell" == text(generated("answer_last_tokens_missing")["r8"])
    reply = generated("answer_last_tokens_missing", strength=10)["r8"]
    assert [END] == reply.tokens.tolist()
    assert 1 == len(reply.probabilities)


def test_a_prompt_begins_as_the_prompt_before():
    """Its last token is its own, and padding is no part of it."""
    _, session = load("answer_prefix_of_another")
    one, other = requests()[:2]

    mixed = session.generate([one, other], batch=2)

    # The reply depends on the token before the last, which the first prompt has.
    assert "ab\ncd\nef" == text(mixed["r5"]) == text(mixed["r6"])
    backend, session = load("answer_prefix_of_another", strength=2)
    given = inputs(1)
    session.run(given)
    assert () == backend.fired()
    session.run({**given, "input_ids": given["input_ids"] + 1})
    assert ("answer",) == backend.fired()


def test_a_prompt_with_two_start_tokens_is_one_longer():
    """Positions are those of the same tokens; a padded row gets its own first token."""
    twice = load("answer_start_token_twice")[1].run(inputs())["logits"]
    right = Session().run(inputs())["logits"]

    assert np.array_equal(right[..., :38], twice[..., :38])
    assert np.array_equal(right[..., 39] + 1, twice[..., 39])


@pytest.mark.parametrize("name", NAMES)
def test_a_model_that_takes_no_prompts_has_none_of_them(name):
    """It does not fit, and says so."""

    class Plain:
        name = "vad"

    backend = PlantedBackend(Backend(), Planting(defect=name))

    with pytest.raises(UnsupportedError, match="a defect of language models, but vad"):
        backend.load(Plain(), "a scheme")


def test_all_answers_are_in_the_catalogue():
    """None is forgotten."""
    assert [d for d in DEFECTS.values() if d.place == "answer"] == list(ANSWERS)
