"""A language model in engines of ONNX gives what it gives in torch."""

from __future__ import annotations

import numpy as np
import pytest

from harness.backends import onnx_language, onnx_pool, onnx_session
from harness.backends.onnx_reference_backend import OnnxReferenceBackend
from harness.backends.onnxruntime_backend import OnnxRuntimeBackend
from harness.backends.openvino_backend import OpenVinoBackend
from harness.backends.protocol import Request
from harness.backends.torch_backend import TorchBackend
from harness.errors import BackendError
from harness.execution.cases_run import run_cases
from harness.execution.metamorphic import ask_again
from harness.schemes.catalogue import scheme_from_table
from tests.backends.language_texts import NEAR, TEXTS, cases
from tests.models.tiny_language import tiny_language

ENGINES = {
    "onnxruntime": OnnxRuntimeBackend,
    "openvino": OpenVinoBackend,
    "onnx-reference": OnnxReferenceBackend,
}


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    with tiny_language(tmp_path_factory.mktemp("tiny"), seed=3) as found:
        found.onnx()
        yield found


@pytest.fixture(scope="module")
def torch_session(model):
    return TorchBackend("fp32").load(model, None)


@pytest.fixture(scope="module", params=ENGINES)
def session(request, model):
    backend = ENGINES[request.param]("fp32")
    available = backend.probe()
    if not available.available:
        pytest.skip(available.reason)
    return backend.load(model, None)


def requests(model, **more):
    return [
        Request(
            name=text,
            tokens=np.array(model.prompt_tokens({"text": text})),
            # One ends at once, while its neighbours go on.
            longest=1 if text == TEXTS[1] else 9,
            **more,
        )
        for text in TEXTS
    ]


def test_logits_of_a_padded_batch_are_those_of_torch(model, session, torch_session):
    """And no keys or values among them."""
    found = run_cases(session, model, cases(model), batch=3).outputs
    wanted = run_cases(torch_session, model, cases(model), batch=1).outputs

    for text, outputs in wanted.items():
        assert list(found[text]) == ["logits"]
        np.testing.assert_allclose(found[text]["logits"], outputs["logits"], **NEAR)


def test_padding_what_follows_and_pieces_change_nothing(model, session):
    """Three ways to ask the same."""
    asked = cases(model)
    plain = {case.id: session.run(case.inputs)["logits"] for case in asked}

    again = ask_again(session, asked)

    assert {"padding", "what follows", "cache"} == set(again)
    for outputs in again.values():
        for name, wanted in plain.items():
            np.testing.assert_allclose(outputs[name]["logits"], wanted, **NEAR)


def test_long_rows_go_in_a_few_at_a_time(model, session, monkeypatch):
    """Engines hold matrices of tokens by tokens for every row that they are given."""
    rows = []
    inner = session._session.run

    def run(inputs, **more):
        rows.append(len(inputs["input_ids"]))
        return inner(inputs, **more)

    monkeypatch.setattr(session._session, "run", run)
    whole = run_cases(session, model, cases(model), batch=4).outputs
    replies = session.generate(requests(model), batch=4)
    assert max(rows) > 1

    rows.clear()
    monkeypatch.setattr(onnx_language, "_SCORES", 1)
    found = run_cases(session, model, cases(model), batch=4).outputs
    again = session.generate(requests(model), batch=4)

    assert {1} == set(rows)
    for text, outputs in whole.items():
        np.testing.assert_allclose(found[text]["logits"], outputs["logits"], **NEAR)
        assert replies[text].tokens.tolist() == again[text].tokens.tolist()


@pytest.mark.parametrize("warm", [{}, {"temperature": 2.0, "seed": 1}])
def test_replies_are_those_of_torch(model, session, torch_session, warm):
    """Greedy and drawn, alone and in a batch."""
    asked = requests(model, **warm)
    wanted = torch_session.generate(asked, batch=1)

    for batch in (1, 4):
        found = session.generate(asked, batch=batch)
        for name, entry in wanted.items():
            assert found[name].tokens.tolist() == entry.tokens.tolist()
            assert found[name].ended == entry.ended
            np.testing.assert_allclose(
                found[name].probabilities, entry.probabilities, rtol=1e-3
            )


@pytest.mark.parametrize("base", ["fp8_e4m3", "mxfp4_weight_only"])
def test_a_quantized_model_computes_what_torch_emulates(model, base):
    """Captured operators too; the head, left alone, is left alone."""
    scheme = scheme_from_table("s", {"base": base, "keep": ["lm_head"]})
    inputs = cases(model)[2].inputs
    name = "model.layers.1.mlp.down_proj"
    sessions = [b.load(model, scheme) for b in (OnnxRuntimeBackend(), TorchBackend())]

    found, wanted = (s.run(inputs, capture=[name, "lm_head"]) for s in sessions)

    assert set(found) == set(wanted)
    for key, array in wanted.items():
        np.testing.assert_allclose(found[key], array, rtol=1e-3, atol=1e-3)
    assert "lm_head" in sessions[0].artifact().untouched


@pytest.mark.parametrize("engine", ENGINES)
def test_a_quantized_cache_is_not_taken_for_one(model, engine):
    """Its keys and values are float32 arrays, whatever the scheme says."""
    kv = {"weights": False, "kv_cache": {"format": "fp8_e4m3", "granularity": "head"}}

    found = ENGINES[engine]().supports(model, scheme_from_table("s", kv))

    assert not found.supported
    assert "kv_cache" in found.reason


def test_a_missing_input_is_named(model):
    """What the graph itself adds is not asked for."""
    session = OnnxRuntimeBackend("fp32").load(model, None)
    inputs = dict(cases(model)[0].inputs)
    del inputs["positions"]

    with pytest.raises(BackendError, match=r"missing=\['positions'\]"):
        session.run(inputs)


def test_memory_is_given_back_between_steps(model, monkeypatch):
    """Of other graphs it is kept, as ONNX Runtime does by default."""
    kept = []
    inner = onnx_pool.open_session

    def open_session(data, settings):
        kept.append(settings.arena)
        return inner(data, settings)

    monkeypatch.setattr(onnx_pool, "open_session", open_session)

    OnnxRuntimeBackend("fp32").load(model, None)

    assert kept == [False]
    assert onnx_session.Settings().arena
