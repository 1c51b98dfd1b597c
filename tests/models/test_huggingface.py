"""Hugging Face folders as models, read offline."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys

import numpy as np
import pytest
import torch

from harness.errors import CasesError, ModelError
from harness.models.huggingface import huggingface
from harness.models.load import load_model
from harness.models.onnx_operators import find_operators
from harness.models.text import TextReader

from .graphs import run_ort

SIZES = {
    "vocab_size": 8,
    "hidden_size": 16,
    "intermediate_size": 32,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "max_position_embeddings": 24,
}


def tokenizer(file):
    """Words to numbers, everything unknown to 0."""
    from tokenizers import Tokenizer, models, pre_tokenizers

    words = {word: i for i, word in enumerate(["?", "the", "answer", "is", "yes"])}
    made = Tokenizer(models.WordLevel(words, unk_token="?"))  # noqa: S106 - no password
    made.pre_tokenizer = pre_tokenizers.Whitespace()
    made.save(str(file))


def make_folder(folder, architecture, **options):
    """A folder with a random model of one layer."""
    import transformers

    config = getattr(transformers, options.pop("config"))
    torch.manual_seed(0)
    model = getattr(transformers, architecture)(config(**options))
    model.save_pretrained(folder)
    tokenizer(folder / "tokenizer.json")
    return folder


@pytest.fixture(scope="module")
def bert(tmp_path_factory):
    """A BERT with a pooler."""
    folder = tmp_path_factory.mktemp("hf") / "bert"
    return make_folder(folder, "BertModel", config="BertConfig", **SIZES)


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("QUANTHARNESS_CACHE", str(tmp_path / "cache"))


def test_a_folder_is_a_model(bert):
    """Tokens in, hidden states out; the pooler, which no output needs, is gone."""
    model = load_model("bert", bert.parent)

    assert [s.name for s in model.inputs] == ["input_ids", "attention_mask"]
    assert [s.name for s in model.outputs] == ["last_hidden_state"]
    names = [o.name for o in model.operators()]
    assert len(names) == 6
    assert "pooler.dense" not in names


@pytest.mark.quant_slow
@pytest.mark.parametrize(
    ("architecture", "options", "axes", "operators"),
    [
        ("BertModel", {"config": "BertConfig", **SIZES}, 3, 6),
        (
            "BertForSequenceClassification",
            {"config": "BertConfig", "num_labels": 3, **SIZES},
            2,
            8,
        ),
        ("LlamaForCausalLM", {"config": "LlamaConfig", **SIZES}, 3, 8),
        (
            "GPT2LMHeadModel",
            {"config": "GPT2Config", "vocab_size": 8, "n_embd": 16, "n_layer": 1}
            | {"n_head": 2, "n_positions": 24, "bos_token_id": 0, "eos_token_id": 0},
            3,
            5,
        ),
    ],
)
def test_torch_and_onnx_agree(tmp_path, architecture, options, axes, operators):
    """Same outputs and same operator names, at sizes the export has not seen."""
    folder = make_folder(tmp_path / "m", architecture, **options)
    model = huggingface(folder)
    proto = model.onnx()

    names = [o.name for o in model.operators()]
    assert len(names) == operators
    assert [e.name for e in find_operators(proto)] == names
    module = model.module()
    for text in ("yes", "the answer is yes yes yes"):
        feeds = model.prepare({"text": text}, "")
        with torch.inference_mode():
            tensors = {k: torch.from_numpy(v) for k, v in feeds.items()}
            (wanted,) = module(**tensors).values()
        (found,) = run_ort(proto, **feeds).values()
        assert found.ndim == axes == len(model.outputs[0].shape)
        np.testing.assert_allclose(found, wanted.numpy(), rtol=1e-4, atol=1e-5)


def test_loading_prints_nothing(bert):
    """Where torchao is installed it is imported, and tells what it cannot load."""
    pytest.importorskip("torchao")
    code = (
        "import sys; from pathlib import Path;"
        "from harness.models.huggingface import load_module;"
        "load_module(Path(sys.argv[1])); assert 'torchao' in sys.modules"
    )
    command = [sys.executable, "-c", code, str(bert)]
    done = subprocess.run(command, capture_output=True, text=True)

    assert (0, "", "") == (done.returncode, done.stdout, done.stderr)


def test_labels_are_metadata(tmp_path, bert):
    """In the order of their numbers."""
    folder = shutil.copytree(bert, tmp_path / "labelled")
    config = json.loads((folder / "config.json").read_text())
    config["id2label"] = {"1": "spam", "0": "ham"}
    (folder / "config.json").write_text(json.dumps(config))

    assert huggingface(folder).metadata["labels"] == ["ham", "spam"]


def test_the_fingerprint_is_of_tensors_and_config(tmp_path, bert):
    """The same tensors in parts are the same model; another configuration is not."""
    from safetensors.numpy import load_file, save_file

    parts = shutil.copytree(bert, tmp_path / "parts")
    tensors = load_file(parts / "model.safetensors")
    names = sorted(tensors)
    halves = {"a.safetensors": names[::2], "b.safetensors": names[1::2]}
    for file, chosen in halves.items():
        save_file({n: tensors[n] for n in chosen}, parts / file)
    (parts / "model.safetensors").unlink()
    index = {"weight_map": {n: f for f, chosen in halves.items() for n in chosen}}
    (parts / "model.safetensors.index.json").write_text(json.dumps(index))
    other = shutil.copytree(bert, tmp_path / "other")
    config = json.loads((other / "config.json").read_text())
    config["hidden_act"] = "relu"
    (other / "config.json").write_text(json.dumps(config))

    assert huggingface(parts).fingerprint == huggingface(bert).fingerprint
    assert huggingface(other).fingerprint != huggingface(bert).fingerprint


def test_weights_in_bfloat16_are_read(tmp_path, bert):
    """As most published models are stored."""
    folder = shutil.copytree(bert, tmp_path / "half")
    from safetensors.torch import load_file, save_file

    tensors = load_file(folder / "model.safetensors")
    halved = {n: t.to(torch.bfloat16) for n, t in tensors.items()}
    save_file(halved, folder / "model.safetensors", {"format": "pt"})
    model = huggingface(folder)

    assert model.fingerprint != huggingface(bert).fingerprint
    assert model.operators()[0].weight.dtype == np.float32


@pytest.mark.parametrize(
    ("file", "data", "words"),
    [
        ("config.json", None, r"no config\.json"),
        ("tokenizer.json", None, r"no tokenizer\.json"),
        ("config.json", b"{", r"config\.json: not JSON"),
        ("config.json", b"[]", "should be a JSON object"),
        ("model.safetensors", None, r"no model\.safetensors; only safetensors"),
        ("model.safetensors", b"version https://git-lfs", "damaged, a git-LFS"),
        ("tokenizer.json", b"{}", "not a tokenizer"),
        ("model.safetensors.index.json", b"{}", "not an index of weights"),
        (
            "model.safetensors.index.json",
            b'{"weight_map": {"w": "../bert/model.safetensors"}}',
            "leaves the folder",
        ),
    ],
)
def test_a_broken_folder_is_named(tmp_path, bert, file, data, words):
    """Each with the file that is wrong."""
    shutil.copytree(bert, tmp_path / "bert")
    folder = shutil.copytree(bert, tmp_path / "broken")
    if data is None:
        (folder / file).unlink()
    else:
        (folder / file).write_bytes(data)

    def use():
        model = huggingface(folder)
        _ = model.fingerprint
        model.prepare({"text": "yes"}, "")

    with pytest.raises(ModelError, match=words) as caught:
        use()
    assert str(folder) in str(caught.value)


def test_an_unknown_architecture_is_named(tmp_path, bert):
    """One that this version of transformers has not."""
    folder = shutil.copytree(bert, tmp_path / "unknown")
    config = json.loads((folder / "config.json").read_text())
    config["architectures"] = ["BrandNewForCausalLM"]
    (folder / "config.json").write_text(json.dumps(config))

    with pytest.raises(ModelError, match="no architecture 'BrandNewForCausalLM'"):
        huggingface(folder).module()


@pytest.fixture
def reader(tmp_path):
    """A reader of at most four tokens."""
    tokenizer(tmp_path / "tokenizer.json")
    return TextReader(tmp_path / "tokenizer.json", longest=4)


def test_a_text_becomes_tokens(reader):
    """int64, with a batch axis of one and a mask of ones."""
    found = reader.prepare({"text": "the answer is yes"}, "")

    np.testing.assert_array_equal(found["input_ids"], [[1, 2, 3, 4]])
    np.testing.assert_array_equal(found["attention_mask"], np.ones((1, 4), np.int64))
    assert found["input_ids"].dtype == np.int64


@pytest.mark.parametrize(
    ("record", "words"),
    [
        ({}, r"has keys \[\], but should have"),
        ({"text": 1}, "but should have"),
        ({"text": "yes", "speed": 2}, r"has keys \['speed', 'text'\]"),
        ({"text": ""}, "no tokens"),
        ({"text": "yes " * 5}, "5 tokens, but the model takes 4"),
    ],
)
def test_a_text_that_cannot_be_read_is_named(reader, record, words):
    """Nothing is cut off or left out in silence."""
    with pytest.raises(CasesError, match=words):
        reader.prepare(record, "")
