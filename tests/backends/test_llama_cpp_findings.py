"""What llama.cpp computes otherwise than it should: docs/deviations.md.

Each test states what should be, and is expected to fail, strictly: an engine that has
been mended is noticed. Nothing but a GGUF file and llama.cpp takes part.
"""

from __future__ import annotations

import numpy as np
import pytest

from harness.backends.llama_cpp_backend import LlamaCppBackend
from harness.backends.llama_cpp_engine import Context, LoadedModel
from harness.models.load import load_model
from harness.schemes.catalogue import scheme_from_table
from tests.models.tiny_gguf import HEADS, HIDDEN, KV_HEADS, LAYERS, write_gguf

pytest.importorskip("xllamacpp", reason="needs the extra llamacpp")
gguf = pytest.importorskip("gguf", reason="needs the extra llamacpp")

KEYS = 4096


@pytest.fixture(scope="module")
def uniform(tmp_path_factory):
    """A model whose heads look at every token alike, and see the same value in each.

    The mean of equal values is that value, however many there are.
    """
    small = HIDDEN // HEADS * KV_HEADS
    arrays = {"token_embd.weight": np.ones((261, HIDDEN), np.float16)}
    arrays["token_embd.weight"][:, 0] = np.linspace(0.5, 1.5, 261)
    for layer in range(LAYERS):
        for name, rows in (("attn_q", HIDDEN), ("attn_k", small)):
            arrays[f"blk.{layer}.{name}.weight"] = np.zeros((rows, HIDDEN), np.float16)
        value = np.full((small, HIDDEN), 1 / HIDDEN, np.float16)
        arrays[f"blk.{layer}.attn_v.weight"] = value
    file = tmp_path_factory.mktemp("uniform") / "uniform.gguf"
    write_gguf(file, arrays=arrays, context=2 * KEYS)
    model = LoadedModel(file)
    yield model
    model.close()


def after(model, tail, **options):
    """Logits after the same tokens, the last `tail` of which are read on their own."""
    context = Context(model, sequences=1, length=KEYS, **options)
    ids, places = np.full(KEYS, 7), np.arange(KEYS)
    owner, wanted = np.zeros(KEYS, int), places == KEYS - 1
    cut = KEYS - tail
    first = slice(0, cut)
    context.decode(ids[first], places[first], owner[first], places[first] == 0)
    found = context.decode(ids[cut:], places[cut:], owner[cut:], wanted[cut:])[0]
    context.close()
    return found


def relative(found, wanted):
    return np.linalg.norm(found - wanted) / np.linalg.norm(wanted)


def test_reading_64_at_once_or_unfused_agree(uniform):
    """The values that are right: by the tiled kernel, and by attention written out."""
    wanted = after(uniform, 64, fused=False)

    assert relative(after(uniform, 64), wanted) < 1e-3
    assert relative(after(uniform, 32, fused=False), wanted) < 1e-3


@pytest.mark.xfail(strict=True, reason="sums of attention in FP16 below 64 tokens")
def test_reading_fewer_than_64_at_once_is_the_same(uniform):
    """A sum of equal values in FP16 stops growing at 2048 of them."""
    assert relative(after(uniform, 32), after(uniform, 64)) < 1e-3


#: Weights of down_proj, whose inputs come from a weight that holds a NaN.
DOWN = {"q8_0": ("int8", 32), "q4_0": ("int4", 32), "q4_k": ("uint4", 256)}


@pytest.fixture
def logits(tmp_path, monkeypatch):
    """(type of down_proj or None) -> logits with one NaN among gate_proj's weights."""
    monkeypatch.setenv("QUANTHARNESS_CACHE", str(tmp_path))
    write_gguf(tmp_path / "wide.gguf", seed=3, inner=256, hidden=256)
    model = load_model("wide.gguf", tmp_path)

    def run(kind):
        scheme = None if kind is None else _down(*DOWN[kind])
        file = LlamaCppBackend().write(model, scheme).file
        tensors = gguf.GGUFReader(file).tensors
        at = next(t.data_offset for t in tensors if t.name == "blk.0.ffn_gate.weight")
        data = bytearray(file.read_bytes())
        data[at : at + 2] = np.array([np.nan], "<f2").tobytes()
        file.write_bytes(data)
        loaded = LoadedModel(file)
        context = Context(loaded, sequences=1, length=256)
        ids, places = np.arange(5, 14), np.arange(9)
        found = context.decode(ids, places, np.zeros(9, int), np.ones(9, bool))
        context.close()
        loaded.close()
        return found

    return run


def _down(fmt, block):
    """down_proj alone in a format, its inputs in INT8 blocks."""
    tensor = {"granularity": "block", "block": 32, "rule": "ggml"}
    table = {
        "weights": {**tensor, "format": fmt},
        "activations": {**tensor, "format": "int8", "block": block},
        "keep": ["lm_head", "*.self_attn.*", "*.gate_proj", "*.up_proj"],
    }
    return scheme_from_table("down", table)


def test_nan_reaches_the_logits_through_f16(logits):
    """So it does where the product after it is not quantized."""
    assert np.isnan(logits(None)).all()


@pytest.mark.xfail(strict=True, reason="NaN is rounded to a zero of INT8")
@pytest.mark.parametrize("kind", DOWN)
def test_nan_reaches_the_logits(logits, kind):
    """What is no number does not become one."""
    assert np.isnan(logits(kind)).all()
