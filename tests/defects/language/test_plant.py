"""Defects of language models: planted in a tiny one, seen in what it gives."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch

from harness.backends.protocol import Request
from harness.backends.torch_backend import TorchBackend
from harness.defects import DEFECTS, PlantedBackend, Planting, Trigger
from harness.defects.language import CACHE, MODEL, PROMPTS
from harness.defects.language.cache import Line
from harness.defects.language.model import Fired
from harness.errors import UnsupportedError
from harness.models.load import load_model
from harness.schemes.catalogue import scheme_by_name
from tests.models.tiny_language import tiny_language

TEXT = "<|im_start|>a text of 40 tokens or so, with digits 1 2 3 in it<|im_end|>"
SCHEME = dataclasses.replace(scheme_by_name("fp8_weight_only"), keep=("lm_head",))
LANGUAGE = [defect.name for defect in (*CACHE, *MODEL, *PROMPTS)]
#: The tiny model's norms have weights of one already.
MOVING = [name for name in LANGUAGE if name != "norm_weights_ignored"]


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """A language model of a few thousand weights."""
    with tiny_language(tmp_path_factory.mktemp("tiny"), seed=3) as found:
        _ = found.operators()
        yield found


def inputs(model, batch=6):
    """The same text in every entry; logits of every position."""
    ids = np.array(model.prompt_tokens({"text": TEXT}), np.int64)
    return {
        "input_ids": np.tile(ids, (batch, 1)),
        "attention_mask": np.ones((batch, ids.size), np.int64),
        "positions": np.tile(np.arange(ids.size), (batch, 1)),
    }


def load(model, name=None, **changes):
    """A session with the defect, and its backend."""
    backend = TorchBackend("fp32")
    if name is not None:
        backend = PlantedBackend(backend, Planting(defect=name, **changes))
    return backend, backend.load(model, SCHEME)


def logits(session, model):
    return session.run(inputs(model))["logits"]


@pytest.fixture(scope="module")
def right(model):
    """What a faultless backend gives."""
    return logits(load(model)[1], model)


@pytest.mark.parametrize("name", MOVING)
def test_every_defect_moves_the_logits_and_says_that_it_fired(model, right, name):
    """At catalogue strength, its condition met."""
    changes = {"trigger": Trigger()}
    if name == "prompt_truncated":
        changes["strength"] = 8
    backend, session = load(model, name, **changes)

    wrong = logits(session, model)

    assert backend.fired()
    assert np.isfinite(wrong).all()
    moved = np.abs(wrong[:, -1] - right[:, -1]).max()
    assert moved > 1e-3 * np.abs(right).max()


@pytest.mark.parametrize("name", MOVING)
def test_more_strength_moves_the_logits_more(model, right, name):
    """From faint to gross, where there are degrees."""
    p = DEFECTS[name].parameter
    if p.low == p.high or name == "prompt_truncated":
        pytest.skip("there or not")
    steps = []
    for strength in (p.low, p.high):
        _, session = load(model, name, strength=strength, trigger=Trigger())
        steps.append(np.linalg.norm(logits(session, model) - right))

    assert steps[0] < steps[1]


@pytest.mark.parametrize(
    ("name", "right_entries"),
    [("cache_wrong_from_fifth_entry", 4), ("cache_wrong_beyond_512_tokens", 6)],
)
def test_a_condition_that_is_not_met_changes_nothing(model, right, name, right_entries):
    """Entries before the fifth; sequences of fewer than 512 tokens."""
    backend, session = load(model, name)

    wrong = logits(session, model)

    assert np.allclose(wrong[:right_entries], right[:right_entries], atol=1e-4)
    assert bool(backend.fired()) is (right_entries < 6)
    if right_entries < 6:
        assert not np.allclose(wrong[right_entries:], right[right_entries:], atol=1e-3)


def line(tokens=7, start=0, before=None):
    """Keys 0, 1, 2, ... and values 100, 101, ... of two heads."""
    ramp = torch.arange(start, start + tokens).float().reshape(1, 1, tokens, 1)
    keys = ramp.expand(1, 2, tokens, 4).contiguous()
    return Line(keys, keys + 100, start, before)


def numbers(pair):
    """The first head's first channel, of keys and of values."""
    return [part[0, 0, :, 0].tolist() for part in pair]


def test_a_stale_line_holds_what_the_line_before_holds():
    """The last of every page of four; values too."""
    found = DEFECTS["cache_stale_lines"].change(line(), 4)

    assert numbers(found)[0] == [0, 1, 2, 2, 4, 5, 6]
    assert numbers(found)[1] == [100, 101, 102, 102, 104, 105, 106]


def test_a_stale_line_goes_on_where_the_cache_ended():
    """Token by token, as replies are written."""
    before = (torch.full((1, 2, 1, 4), 6.0), torch.full((1, 2, 1, 4), 106.0))

    found = DEFECTS["cache_stale_lines"].change(line(1, 7, before), 4)

    assert numbers(found) == [[6], [106]]


def test_a_shifted_position_is_the_token_before():
    """The first keeps its own where there is none before it."""
    assert numbers(DEFECTS["cache_position_shifted"].change(line(4), 1))[0] == [
        0,
        0,
        1,
        2,
    ]


def test_what_each_line_becomes():
    """Scales, saturation, exchange, zeros."""
    whole = line(4)
    of = {
        name: numbers(DEFECTS[f"cache_{name}"].change(whole, strength))
        for name, strength in (
            ("scale_ratio", 0.5),
            ("read_as_fnuz", 1),
            ("keys_and_values_exchanged", 1),
            ("saturates", 0.5),
            ("lines_unwritten", 2),
        )
    }

    assert of["scale_ratio"] == [[0, 1.5, 3, 4.5], [150, 151.5, 153, 154.5]]
    assert of["read_as_fnuz"][0] == [0, 0.5, 1, 1.5]
    assert of["keys_and_values_exchanged"][0] == [100, 101, 102, 103]
    assert of["saturates"] == [[0, 1, 1.5, 1.5], [51.5] * 4]
    assert of["lines_unwritten"] == [[0, 0, 2, 0], [100, 0, 102, 0]]


def test_one_heads_scale_leaves_the_other_heads_alone():
    """Heads are not mixed."""
    keys, _ = DEFECTS["cache_head_scale_ratio"].change(line(3), 1.0)

    assert keys[0, 0, :, 0].tolist() == [0, 2, 4]
    assert keys[0, 1, :, 0].tolist() == [0, 1, 2]


def test_a_prompt_without_its_beginning_is_the_shorter_prompt(model):
    """Masked tokens count for nothing, positions included."""
    _, session = load(model, "prompt_truncated", strength=8)
    given = inputs(model, batch=1)
    short = {name: array[:, -8:] for name, array in given.items()}
    short["positions"] = short["positions"] - short["positions"][0, 0]
    _, clean = load(model)

    wrong = session.run(given)["logits"][0, -8:]

    assert np.allclose(clean.run(short)["logits"][0], wrong, atol=1e-4)


def test_replies_are_to_the_prompt_that_was_left(model):
    """As the same prompt without its marks is answered."""
    _, session = load(model, "prompt_template_missing")
    _, clean = load(model)
    tokens = inputs(model, batch=1)["input_ids"][0]
    marks = [model.tokenizer.encode(m)[0] for m in ("<|im_start|>", "<|im_end|>")]
    bare = tokens[~np.isin(tokens, marks[:1])]
    whole = Request(name="a", tokens=tokens, longest=5)

    found = session.generate([whole], batch=1)["a"].tokens
    wanted = clean.generate([Request(name="a", tokens=bare, longest=5)], batch=1)["a"]

    # The last token of a prompt is always given, a mark or not.
    assert tokens[-1] == marks[1]
    assert np.array_equal(wanted.tokens, found)


def test_norms_lose_their_weights_by_degrees():
    """Half of the way from three to one is two; layers are left alone."""
    norm = torch.nn.RMSNorm(4)
    norm.weight.data[:] = 3
    layer = torch.nn.Linear(4, 4)
    before = layer.weight.clone()
    module = torch.nn.Module()
    module.model = torch.nn.Sequential(norm, layer)

    DEFECTS["norm_weights_ignored"].change(module, None, 0.5, Fired())

    assert norm.weight.tolist() == [2, 2, 2, 2]
    assert torch.equal(layer.weight, before)


@pytest.fixture(scope="module")
def plain():
    """A model that keeps no keys and values."""
    return load_model("harness.models.zoo:vad", Path())


@pytest.mark.parametrize("name", LANGUAGE)
def test_a_model_without_a_cache_has_none_of_them(plain, name):
    """It does not fit, and says so."""
    backend = PlantedBackend(TorchBackend("fp32"), Planting(defect=name))
    reason = "a defect of language models in torch"
    if DEFECTS[name].place == "prompt":
        reason = "a defect of language models, but vad takes no prompts"

    with pytest.raises(UnsupportedError, match=reason):
        backend.load(plain, SCHEME)
