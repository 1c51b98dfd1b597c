"""Bytes planted in the file that llama.cpp loads: the engine computes with them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from harness.backends import llama_cpp_handshake
from harness.defects import DEFECTS, PlantedBackend, Planting
from harness.defects.stored import STORED
from harness.errors import BackendError, UnsupportedError, UsageError
from harness.schemes.catalogue import scheme_from_table
from tests.models.tiny_language import tiny_language

pytest.importorskip("xllamacpp", reason="needs the extra llamacpp")
pytest.importorskip("gguf", reason="needs the extra llamacpp")

from harness.backends.llama_cpp_backend import LlamaCppBackend

ROUNDED = {"format": "int8", "granularity": "block", "block": 32, "rule": "ggml"}
SCHEMES = {
    "q8_0": ROUNDED,
    "q4_0": {**ROUNDED, "format": "int4"},
    "mxfp4": {"format": "mxfp4", "rule": "ggml"},
}
#: What none of these types has: zero points, a scale of the whole tensor.
NONE = {
    "stored_tensor_scale_missing",
    "stored_tensor_scale_of_other",
    "stored_zero_points_missing",
    "stored_zero_points_off_by_one",
}
#: Two codes in a byte; codes that are integers, scales of any size.
UNFIT = {
    "q8_0": NONE | {"stored_nibbles_swapped"},
    "q4_0": NONE,
    "mxfp4": NONE | {"stored_offset_missing", "stored_scales_power_of_two"},
}
NAMES = [defect.name for defect in STORED]
ONE = "model.layers.1.self_attn.q_proj"


def scheme(kind):
    table = {"weights": SCHEMES[kind], "activations": ROUNDED, "keep": ["lm_head"]}
    return scheme_from_table(kind, table)


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tiny")
    with tiny_language(folder, threads="1", seed=3, inner=64) as found:
        yield found


def load(model, name, kind="q8_0", **changes):
    backend = PlantedBackend(LlamaCppBackend(), Planting(defect=name, **changes))
    return backend, backend.load(model, scheme(kind))


def inputs(model):
    ids = np.array([model.prompt_tokens({"text": "hello, what is 2 + 2?"})])
    where = np.array([[3, ids.shape[1] - 1]])
    return {"input_ids": ids, "attention_mask": np.ones_like(ids), "positions": where}


@pytest.mark.parametrize("kind", SCHEMES)
@pytest.mark.parametrize("name", NAMES)
def test_what_fits_moves_the_logits_and_shows_in_the_file(model, kind, name):
    """In all weights; what a type has not does not fit it."""
    if name in UNFIT[kind]:
        with pytest.raises(UnsupportedError, match="fits no weight of the file"):
            load(model, name, kind)
        return
    clean = LlamaCppBackend().load(model, scheme(kind))
    right = clean.run(inputs(model))["logits"]
    clean.close()
    backend, session = load(model, name, kind)
    try:
        moved = np.abs(session.run(inputs(model))["logits"] - right)
        planted = set(backend.fired())

        assert planted
        assert not np.nan_to_num(moved, nan=np.inf).max() < 1e-3
        assert "lm_head" not in planted
    finally:
        session.close()


def test_one_weight_of_our_name_is_planted_in_and_no_other(model):
    """Only its product is wrong: the one before it gives the same."""
    names = ["model.layers.0.mlp.down_proj", ONE, "model.layers.1.self_attn.k_proj"]
    clean = LlamaCppBackend().load(model, scheme("q8_0"))
    right = clean.run(inputs(model), capture=names)
    backend, session = load(model, "stored_rows_shifted", operator=ONE)

    wrong = session.run(inputs(model), capture=names)

    same = [np.array_equal(right[name], wrong[name]) for name in names]
    assert (ONE,) == backend.fired()
    assert [True, False, True] == same
    clean.close()
    session.close()


def test_the_file_goes_with_the_session_and_the_backend_s_own_stays(model):
    """A later run loads what was written, not what was planted."""
    backend = LlamaCppBackend()
    written = backend.write(model, scheme("q8_0"))
    before = written.file.read_bytes()
    _, session = load(model, "stored_signs_flipped")
    file = Path(session._session._written.file)

    assert file.is_file()
    assert file != written.file
    session.close()
    session.close()

    assert not file.exists()
    assert not file.parent.exists()
    assert before == written.file.read_bytes()


def test_a_file_that_is_refused_leaves_nothing(model, monkeypatch):
    """The folder goes when the engine does not load what is in it."""
    seen = []

    class Refusing(LlamaCppBackend):
        def open_written(self, model, scheme, written):  # noqa: ARG002
            seen.append(written.file)
            raise BackendError("no")

    backend = PlantedBackend(Refusing(), Planting(defect="stored_rows_shifted"))

    with pytest.raises(BackendError, match="no"):
        backend.load(model, scheme("q8_0"))

    assert not seen[0].parent.exists()


def test_an_operator_that_is_not_quantized_is_not_planted_in(model):
    """The head stays as it is under the scheme."""
    with pytest.raises(UsageError, match="no quantized weight is called 'lm_head'"):
        load(model, "stored_rows_shifted", operator="lm_head")


@pytest.mark.parametrize(
    "name",
    [d.name for d in DEFECTS.values() if d.place in ("weight", "cache", "between")],
)
def test_what_is_inside_the_engine_cannot_be_planted(model, name):
    """Its layers are closed: said before anything is loaded."""
    backend = PlantedBackend(LlamaCppBackend(), Planting(defect=name))

    with pytest.raises(UnsupportedError, match="cannot be planted in llama"):
        backend.load(model, scheme("q8_0"))


def test_numbers_that_are_not_finite_are_the_judge_s_to_name(model):
    """The file is loaded as by default; its weights and logits say what is wrong."""
    _, session = load(model, "stored_scales_nan", operator=ONE)

    shown = session.artifact().weights[ONE]

    assert np.isnan(shown.scales).any()
    assert np.isnan(session.run(inputs(model))["logits"]).any()
    assert np.isnan(session.handshake.pieces)
    session.close()


def test_rows_of_logits_that_are_another_token_s_are_refused():
    """Shifted by one, with roundings; rows that are nobody's are not."""
    rng = np.random.default_rng(0)
    whole = rng.normal(size=(9, 50))
    near = whole + 0.05 * rng.normal(size=whole.shape)

    llama_cpp_handshake._check_alignment(near, whole)
    llama_cpp_handshake._check_alignment(rng.normal(size=(9, 50)), whole)
    llama_cpp_handshake._check_alignment(near, np.full_like(whole, np.nan))
    with pytest.raises(BackendError, match="after token 1 are those of token 0"):
        llama_cpp_handshake._check_alignment(np.roll(near, 1, axis=0)[1:], whole[1:])


@pytest.mark.parametrize(
    "name", ["prompt_template_missing", "prompt_start_token_missing"]
)
def test_prompts_are_planted_before_any_engine(model, name):
    """Tokens that are left out are masked: llama.cpp never gets them."""
    clean = LlamaCppBackend().load(model, scheme("q8_0"))
    ids = np.array([model.prompt_tokens({"prompt": "hello"})])
    asked = {
        "input_ids": ids,
        "attention_mask": np.ones_like(ids),
        "positions": np.array([[ids.shape[1] - 1]]),
    }
    right = clean.run(asked)["logits"]
    backend, session = load(model, name)

    wrong = session.run(asked)["logits"]

    assert ("prompt",) == backend.fired()
    assert np.abs(wrong - right).max() > 1e-2
    clean.close()
    session.close()
