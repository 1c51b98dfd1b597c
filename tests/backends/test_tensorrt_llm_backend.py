"""TensorRT-LLM's protocol, held with a stand-in for its library; no GPU was there.

The stand-in has the names, the parameters and the refusals that its LLM API documents;
what it computes is a table of logits. It says nothing about what a GPU computes.
"""

from __future__ import annotations

import importlib.util
import sys
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest
import torch

from harness.backends.protocol import Backend, Request, Session
from harness.backends.tensorrt_llm_backend import TensorRtLlmBackend
from harness.errors import BackendError, UnsupportedError
from harness.schemes.catalogue import SCHEMES
from harness.schemes.checkpoint import scheme_of_checkpoint

KEPT = Path(__file__).parents[1] / "models" / "checkpoints"
SIZE = 32
END = 7


def next_logits(tokens):
    """float32 (SIZE,) after these tokens: a hash of the last two, END after 5."""
    last = (tokens[-1] * 31 + len(tokens)) % 1000
    found = np.random.default_rng(last).standard_normal(SIZE)
    if tokens[-1] == 5:
        found[END] = 20.0
    return found.astype(np.float32)


@dataclass(kw_only=True)
class SamplingParams:
    """The fields that the adapter may give; another one is a TypeError."""

    max_tokens: int = 32
    temperature: float | None = None
    seed: int | None = None
    end_id: int | None = None
    pad_id: int | None = None
    stop_token_ids: list[int] | None = None
    detokenize: bool = True
    return_context_logits: bool = False
    return_generation_logits: bool = False


@dataclass(kw_only=True)
class KvCacheConfig:
    """Blocks are reused unless told otherwise."""

    enable_block_reuse: bool = True


class Engine:
    """`tensorrt_llm.LLM`."""

    def __init__(self, library, *, model, dtype, skip_tokenizer_init,
                 enable_chunked_prefill, kv_cache_config):  # fmt: skip
        if library.broken == "load":
            raise RuntimeError("CUDA out of memory")
        self.library, self.config = library, kv_cache_config
        assert skip_tokenizer_init
        assert not enable_chunked_prefill
        self.model, self.dtype = model, dtype
        library.engines.append(self)
        self.open = True

    def shutdown(self):
        assert self.open
        self.open = False

    def generate(self, inputs, sampling_params, use_tqdm):
        assert self.open
        assert not use_tqdm
        assert len(inputs) == len(sampling_params)
        self.library.calls.append((inputs, sampling_params))
        return [self.one(*pair) for pair in zip(inputs, sampling_params, strict=True)]

    def one(self, given, how):
        assert set(given) == {"prompt_token_ids"}
        assert how.end_id is not None  # no tokenizer says it
        tokens = list(given["prompt_token_ids"])
        prompt = len(tokens)
        rows, reason = [], "length"
        for _ in range(how.max_tokens):
            rows.append(next_logits(tokens))
            tokens.append(int(rows[-1].argmax()))
            if tokens[-1] in (how.end_id, *(how.stop_token_ids or ())):
                reason = "stop"
                break
        reply = tokens[prompt:]
        if reason == "stop" and self.library.broken == "end left out":
            reply = reply[:-1]
        context = None
        if how.return_context_logits:
            context = np.stack([next_logits(tokens[: i + 1]) for i in range(prompt)])
            if self.library.broken == "shifted":
                context = np.roll(context, 1, axis=0)
            if self.config.enable_block_reuse or self.library.broken == "short":
                context = context[-1:]
            context = torch.from_numpy(context).half()
        generation = None
        if how.return_generation_logits and self.library.broken != "no logits":
            generation = torch.from_numpy(np.stack(rows)).half()[None]
        output = SimpleNamespace(
            token_ids=reply, finish_reason=reason, generation_logits=generation
        )
        return SimpleNamespace(outputs=[output], context_logits=context)


@pytest.fixture
def library(monkeypatch):
    """The stand-in, imported as the real one would be."""
    found = ModuleType("tensorrt_llm")
    found.__version__ = "1.2-stand-in"
    found.__spec__ = importlib.util.spec_from_loader("tensorrt_llm", None)
    found.broken, found.engines, found.calls = "", [], []
    found.LLM = lambda **options: Engine(found, **options)
    found.SamplingParams = SamplingParams
    api = ModuleType("tensorrt_llm.llmapi")
    api.KvCacheConfig = KvCacheConfig
    monkeypatch.setitem(sys.modules, "tensorrt_llm", found)
    monkeypatch.setitem(sys.modules, "tensorrt_llm.llmapi", api)
    return found


MODEL = SimpleNamespace(name="m", tokenizer=object(), folder="folder", ends=(END, 9))
SCHEME = scheme_of_checkpoint(KEPT / "mo-fp8")


def test_it_is_a_backend(library):
    """The protocol's members are there; the checkpoint is what is loaded."""
    backend = TensorRtLlmBackend()

    session = backend.load(MODEL, SCHEME)

    assert isinstance(backend, Backend)
    assert isinstance(session, Session)
    assert library.engines[0].model == SCHEME.checkpoint
    assert library.engines[0].dtype == "auto"
    assert session.arithmetic().determinism == "run-to-run"


def test_the_reference_is_the_model_s_own_folder(library):
    """In the precision that was asked for, or it says that it has none."""
    TensorRtLlmBackend("bf16").load(MODEL, None)

    assert library.engines[0].model == "folder"
    assert library.engines[0].dtype == "bfloat16"
    with pytest.raises(UnsupportedError, match="does not run models in fp32"):
        TensorRtLlmBackend("fp32").load(MODEL, None)


def test_logits_are_those_at_the_positions_asked_for(library):
    """Padding is not sent; each row's positions count from its first token."""
    session = TensorRtLlmBackend().load(MODEL, SCHEME)
    ids = np.array([[3, 4, 6, 8], [0, 0, 11, 12]])
    mask = np.array([[1, 1, 1, 1], [0, 0, 1, 1]])
    positions = np.array([[1, 3], [2, 3]])

    found = session.run(
        {"input_ids": ids, "attention_mask": mask, "positions": positions}
    )["logits"]

    expected = [
        [next_logits([3, 4]), next_logits([3, 4, 6, 8])],
        [next_logits([11]), next_logits([11, 12])],
    ]
    assert np.array_equal(found, np.array(expected, np.float16).astype(np.float32))
    assert library.calls[-1][0][1] == {"prompt_token_ids": [11, 12]}


@pytest.mark.parametrize("broken", ["", "end left out"])
def test_replies_end_where_the_engine_ends_them(library, broken):
    """The end token is the last one, whether the version returns it or not."""
    session = TensorRtLlmBackend().load(MODEL, SCHEME)
    library.broken = broken
    asked = [
        Request(name="ends", tokens=np.array([3, 5]), longest=4),
        Request(name="long", tokens=np.array([3, 4]), longest=3),
        Request(name="third", tokens=np.array([2, 5]), longest=3),
    ]

    found = session.generate(asked, batch=2)

    assert found["ends"].tokens.tolist() == [END]
    assert found["ends"].ended
    assert found["ends"].probabilities[0] > 0.99
    assert found["long"].ended == (found["long"].tokens[-1] in MODEL.ends)
    assert found["third"].tokens.tolist() == [END]
    assert [len(inputs) for inputs, _ in library.calls[1:]] == [2, 1]


def test_a_seed_goes_to_the_engine_above_temperature_0(library):
    """Its draws are its own."""
    session = TensorRtLlmBackend().load(MODEL, SCHEME)

    session.generate(
        [Request(name="a", tokens=np.array([1]), longest=1, temperature=0.7, seed=5)],
        batch=1,
    )

    (how,) = library.calls[-1][1]
    assert (how.temperature, how.seed) == (0.7, 5)
    assert how.stop_token_ids == [9]


@pytest.mark.parametrize(
    ("broken", "message"),
    [
        ("load", "does not load .*mo-fp8: RuntimeError: CUDA out of memory"),
        ("shifted", "not those that it decodes by"),
        ("short", r"shape=\(1, 32\), but should have 8 rows"),
    ],
)
def test_what_is_wrong_on_loading_is_told(library, broken, message):
    """Logits of other tokens are found before anything is recorded of them."""
    library.broken = broken

    with pytest.raises(BackendError, match=message):
        TensorRtLlmBackend().load(MODEL, SCHEME)

    assert not any(engine.open for engine in library.engines)


def test_replies_without_logits_are_an_error(library):
    """Probabilities are not made up."""
    session = TensorRtLlmBackend().load(MODEL, SCHEME)
    library.broken = "no logits"

    with pytest.raises(BackendError, match="a: no generation logits"):
        session.generate([Request(name="a", tokens=np.array([1]), longest=1)], batch=1)


def test_a_closed_session_and_missing_inputs_raise(library):
    """Closing twice does nothing."""
    session = TensorRtLlmBackend().load(MODEL, SCHEME)
    ids = np.ones((1, 2), np.int64)

    with pytest.raises(BackendError, match=r"missing=\['positions'\]"):
        session.run({"input_ids": ids, "attention_mask": ids})
    session.close()
    session.close()
    with pytest.raises(BackendError, match="closed"):
        session.run({"input_ids": ids, "attention_mask": ids, "positions": ids})


@pytest.mark.parametrize(
    ("model", "scheme", "reason"),
    [
        (SimpleNamespace(name="cnn"), SCHEME, "cnn is no language model"),
        (MODEL, SCHEMES["fp8_e4m3"], "give the scheme `checkpoint`"),
    ],
)
def test_what_it_cannot_run_it_refuses(model, scheme, reason):
    """And says what to do."""
    found = TensorRtLlmBackend().supports(model, scheme)

    assert not found.supported
    assert reason in found.reason


def test_checkpoints_are_supported():
    """Of a language model."""
    assert TensorRtLlmBackend().supports(MODEL, SCHEME).supported


def test_a_probe_never_raises(library, monkeypatch):
    """Not installed, no GPU, or an install that breaks on import: a reason each."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert "no GPU" in TensorRtLlmBackend().probe().reason
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "H100")
    assert TensorRtLlmBackend().probe().version == "1.2-stand-in"
    del library.__version__
    assert "does not import" in TensorRtLlmBackend().probe().reason
    monkeypatch.delitem(sys.modules, "tensorrt_llm")
    found = TensorRtLlmBackend().probe()
    assert found.available is False
    assert "NVIDIA" in found.reason
