"""A GGUF file becomes a language model whose prompts and logits are the file's own."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

from harness.errors import CasesError, ModelError
from harness.models.chat import ChatTokenizer
from harness.models.gguf_file import unpack
from harness.models.language import ROWS, end_tokens, rows_of
from harness.models.load import load_model

from .tiny_gguf import HEADS, weights, write_gguf


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("QUANTHARNESS_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def model(tmp_path):
    write_gguf(tmp_path / "tiny.gguf")
    return load_model("tiny.gguf", tmp_path)


def test_weights_are_the_files_with_the_rotary_order_undone(tmp_path):
    """Queries and keys are stored interleaved; everything else as it stands."""
    from safetensors.numpy import load_file

    write_gguf(tmp_path / "tiny.gguf")
    found = load_file(str(unpack(tmp_path / "tiny.gguf") / "model.safetensors"))
    stored = weights(261, 0)
    query = stored["blk.1.attn_q.weight"]
    width = len(query) // HEADS
    for head in range(HEADS):
        rows = query[head * width : (head + 1) * width]
        mine = found["model.layers.1.self_attn.q_proj.weight"][
            head * width : (head + 1) * width
        ]
        assert np.array_equal(np.concatenate([rows[0::2], rows[1::2]]), mine)
    assert np.array_equal(
        stored["blk.0.ffn_down.weight"], found["model.layers.0.mlp.down_proj.weight"]
    )
    assert {np.dtype("float16")} == {array.dtype for array in found.values()}


def test_unpacking_happens_once(tmp_path):
    """The second time finds the first's folder; other bytes have another."""
    write_gguf(tmp_path / "tiny.gguf")
    folder = unpack(tmp_path / "tiny.gguf")
    before = (folder / "model.safetensors").stat().st_mtime_ns
    again = unpack(tmp_path / "tiny.gguf")
    write_gguf(tmp_path / "tiny.gguf", seed=1)

    assert (folder, before) == (again, (again / "model.safetensors").stat().st_mtime_ns)
    assert folder != unpack(tmp_path / "tiny.gguf")
    assert not list(folder.parent.glob(".unpacking*"))


@pytest.mark.parametrize(
    ("fields", "message"),
    [({"architecture": "mamba"}, "mamba"), ({"tokenizer": "llama"}, "tokenizer")],
)
def test_what_is_not_understood_is_refused(tmp_path, fields, message):
    """A guess at an architecture or a tokenizer would be another model."""
    write_gguf(tmp_path / "odd.gguf", **fields)

    with pytest.raises(ModelError, match=message):
        unpack(tmp_path / "odd.gguf")
    assert not list((tmp_path / "cache" / "gguf").iterdir())


def test_a_damaged_file_is_named(tmp_path):
    """With its path."""
    (tmp_path / "broken.gguf").write_bytes(b"GGUF and nothing else")

    with pytest.raises(ModelError, match=r"broken\.gguf"):
        load_model("broken.gguf", tmp_path)


def test_tokens_survive_the_round_trip(model):
    """Every byte has a token, special tokens are one, digits stand alone."""
    tokenizer = model.tokenizer
    text = "hello <|im_end|>\n naïve 😀 12\t"

    assert text == tokenizer.decode(tokenizer.encode(text))
    assert [2] == tokenizer.encode("<|im_end|>")
    assert 2 == len(tokenizer.encode("12"))


def test_a_prompt_goes_through_the_chat_template(model):
    """And a text goes in as it stands."""
    asked = model.tokenizer.decode(model.prompt_tokens({"prompt": "hello"}))

    assert "<|im_start|>user\nhello<|im_end|>\n<|im_start|>assistant\n" == asked
    assert "hello" == model.tokenizer.decode(model.prompt_tokens({"text": "hello"}))


@pytest.mark.parametrize(
    "record",
    [
        {"prompt": ""},
        {"prompt": "a", "text": "b"},
        {"prompt": "a", "answer": "b"},
        {"messages": []},
        {"messages": [{"role": "robot", "content": "a"}]},
        {"messages": ["a"]},
        {"prompt": "a", "reply": 3},
        {"text": "a" * 300},
        {},
    ],
)
def test_a_malformed_prompt_is_refused(model, record):
    """Nothing to ask, two questions, an unknown role, more than the context."""
    with pytest.raises(CasesError):
        model.prepare(record, "")


@pytest.mark.parametrize("key", ["prompt", "text", "reply", "begins"])
def test_half_a_character_is_refused(model, key):
    """JSON can hold half of a surrogate pair; the message says where it is."""
    record = {"prompt": "a", key: "ab\ud83d"}
    if key == "text":
        del record["prompt"]

    with pytest.raises(CasesError, match=r"\bhalf of a surrogate pair"):
        model.prepare(record, "")


def test_an_answer_may_begin_before_the_model_does(model):
    """What it begins with belongs to the prompt, which ends there."""
    begun = model.prepare({"prompt": "a", "begins": "It is"}, "")
    plain = model.prompt_tokens({"prompt": "a"})

    ids = begun["input_ids"][0].tolist()
    assert ids == plain + model.tokenizer.encode("It is")
    assert begun["positions"][0, 0] == len(ids) - 1
    with pytest.raises(CasesError, match="begins=3"):
        model.prepare({"prompt": "a", "begins": 3}, "")


def test_without_a_template_only_texts_are_taken(tmp_path):
    """A template of our own would be another model's."""
    write_gguf(tmp_path / "bare.gguf", template=None)
    bare = load_model("bare.gguf", tmp_path)

    with pytest.raises(CasesError, match=r"bare has no chat template.*give `text`"):
        bare.prepare({"prompt": "hello"}, "")
    assert 3 == bare.prepare({"text": "hello"}, "")["input_ids"].size


def test_a_template_cannot_reach_the_interpreter(tmp_path):
    """It comes with somebody's model."""
    write_gguf(tmp_path / "evil.gguf", template="{{ ''.__class__.__mro__[1] }}")

    with pytest.raises(CasesError, match="template refuses"):
        load_model("evil.gguf", tmp_path).prepare({"prompt": "a"}, "")


def test_another_template_is_another_model(tmp_path):
    """Its fingerprint says so: every prompt would read differently."""
    write_gguf(tmp_path / "a.gguf")
    write_gguf(tmp_path / "b.gguf", template="{{ messages[0]['content'] }}")

    assert (
        load_model("a.gguf", tmp_path).fingerprint
        != load_model("b.gguf", tmp_path).fingerprint
    )


@pytest.mark.parametrize(("prompt", "length"), [(1, 2), (5, 6), (5, 40), (30, 40)])
def test_rows_are_in_range_start_at_the_prompts_end_and_are_few(prompt, length):
    """Each once."""
    rows = rows_of(prompt, length)

    assert prompt - 1 == rows[0]
    assert len(set(rows.tolist())) == len(rows) <= ROWS
    assert rows.min() >= 0
    assert rows.max() < length


def test_logits_at_positions_are_those_of_the_whole_sequence(model):
    """Leaving the others out changes nothing."""
    inputs = model.prepare({"prompt": "hello", "reply": "hell"}, "")
    every = inputs | {"positions": np.arange(inputs["input_ids"].size)[None]}
    module = model.module()
    with torch.inference_mode():
        some, whole = (
            module(**{k: torch.from_numpy(v) for k, v in feed.items()})["logits"]
            for feed in (inputs, every)
        )

    picked = whole[0, torch.from_numpy(inputs["positions"][0])]
    torch.testing.assert_close(some[0], picked, rtol=1e-5, atol=1e-5)


def test_a_template_in_the_tokenizers_settings_is_found(tmp_path):
    """Where older folders keep it."""
    settings = {"chat_template": "{{ messages[0]['content'] }}"}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(settings))

    assert settings["chat_template"] == ChatTokenizer(tmp_path).template


def test_a_reply_may_have_several_ends(tmp_path):
    """The end of a turn and the end of the text, as chat models have."""
    (tmp_path / "config.json").write_text('{"eos_token_id": [7, 2]}')
    (tmp_path / "generation_config.json").write_text('{"eos_token_id": 9}')
    assert end_tokens(tmp_path) == (7, 2, 9)

    (tmp_path / "generation_config.json").unlink()
    (tmp_path / "config.json").write_text('{"eos_token_id": null}')
    assert end_tokens(tmp_path) == ()


def test_a_reply_cannot_have_ended_where_nothing_ends_it(model, monkeypatch):
    """The end would be left out in silence, and the logits be those of another text."""
    asked = {"prompt": "a", "reply": "b", "ended": True}
    with_end = model.prepare(asked, "")["input_ids"]
    monkeypatch.setattr(model, "end", None)

    assert model.ends[0] == with_end[0, -1]
    with pytest.raises(CasesError, match=r"tiny has no end token.*leave `ended` out"):
        model.prepare(asked, "")


def test_an_end_that_is_no_token_is_named(tmp_path):
    """With the file and what was found."""
    (tmp_path / "config.json").write_text('{"eos_token_id": ["</s>"]}')
    with pytest.raises(ModelError, match=r"config\.json: eos_token_id=\['</s>'\]"):
        end_tokens(tmp_path)
