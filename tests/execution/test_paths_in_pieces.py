"""Attention over keys and values that were kept is judged, token by token read."""

from __future__ import annotations

import numpy as np
import pytest

from harness.backends.protocol import Arithmetic
from harness.backends.torch_backend import TorchBackend
from harness.execution.paths import IN_PIECES, Paths
from harness.judge.checks.explained_paths import explained_paths
from harness.judge.evidence import Evidence
from harness.judge.levels import Levels
from harness.models.types import Case
from harness.schemes.catalogue import scheme_from_table
from tests.models.tiny_language import tiny_language

torch = pytest.importorskip("torch")

TEXT = "what is read in pieces is what is read at once, whatever was kept: 3.14, {}"
F16 = {
    "weights": {"format": "fp16", "granularity": "tensor"},
    "activations": {"format": "fp16", "granularity": "tensor"},
    "keep": ["lm_head"],
}
FP8 = {"base": "fp8_e4m3", "keep": ["lm_head"]}
KEPT = {"weights": False, "kv_cache": {"format": "fp8_e4m3", "granularity": "head"}}


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tiny")
    with tiny_language(folder, threads="1", seed=3, inner=64, context=2048) as found:
        _ = found.operators()
        yield found


def case(model, times=1):
    return Case("c", model.prepare({"text": TEXT * times}, ""))


def linears(model):
    return [o for o in model.operators() if o.name != "lm_head"]


def watched(model, session, scheme, chosen, arithmetic=None):
    """The paths of a prompt read whole, and in pieces."""
    declared = arithmetic or session.arithmetic()
    paths = Paths(model, scheme, linears(model), declared, seed=1)
    names = [operator.name for operator in linears(model)]
    paths.add(chosen.inputs, session.run(chosen.inputs, capture=names))
    paths.in_pieces(session, [chosen])
    return paths


def guilty(paths):
    """Names of the paths beyond their limit; all in all there are some."""
    evidence = Evidence(
        suite="s", backend="b", scheme="c", seed=0, paths=paths.result()
    )
    found = explained_paths(evidence, Levels()).paths
    assert any(IN_PIECES in path.name for path in found)
    return [path.name for path in found if path.guilty]


@pytest.mark.parametrize("table", [FP8, KEPT], ids=["weights", "cache"])
def test_a_faithful_cache_is_explained(model, table):
    """Every path is there twice: read at once, and in pieces."""
    scheme = scheme_from_table("s", table)
    session = TorchBackend().load(model, scheme)
    paths = watched(model, session, scheme, case(model))
    names = [entry.name for entry in paths.result()]

    assert [] == guilty(paths)
    whole = [name for name in names if IN_PIECES not in name]
    assert names == whole + [f"{name}, {IN_PIECES}" for name in whole]


def test_a_lost_line_of_the_cache_is_located(model):
    """In the layer whose cache it is, and only where a cache is read."""
    scheme = scheme_from_table("s", FP8)
    session = TorchBackend().load(model, scheme)
    make = session.module.new_cache

    def forgetful():
        cache = make()
        update = cache.layers[1].update

        def forget(keys, values, *args, **kwargs):
            both = update(keys, values, *args, **kwargs)
            if both[0].shape[-2] > keys.shape[-2]:
                both = tuple(part.clone() for part in both)
                for part in both:
                    part[:, 0, 3] = 0
            return both

        cache.layers[1].update = forget
        return cache

    session.module.new_cache = forgetful
    found = guilty(watched(model, session, scheme, case(model)))

    layer = "model.layers.1.self_attn"
    assert f"{layer}.v_proj -> {layer}.o_proj, in pieces" == found[0]
    assert all(name.endswith(IN_PIECES) for name in found)


def test_what_was_captured_in_pieces_is_of_all_tokens(model):
    """In their order; nothing but last bits differs from a prompt read whole."""
    session = TorchBackend("fp32").load(model, None)
    chosen, names = case(model), [o.name for o in linears(model)]
    whole = session.run(chosen.inputs, capture=names)
    pieces = session.run_in_pieces(chosen.inputs, 5, capture=names)

    assert set(whole) == set(pieces)
    for name in whole:
        np.testing.assert_allclose(pieces[name], whole[name], rtol=1e-3, atol=1e-4)


def test_a_session_that_shows_nothing_in_pieces_is_judged_whole(model):
    """As engines are whose graphs show what they were built to show."""
    scheme = scheme_from_table("s", FP8)
    session = TorchBackend().load(model, scheme)
    session.watches_pieces = False
    names = [
        entry.name for entry in watched(model, session, scheme, case(model)).result()
    ]

    assert names
    assert not any(IN_PIECES in name for name in names)


def test_a_product_in_a_declared_type_explains_its_roundings_alone(model):
    """Keys and values in FP16 where FP16 is declared; never a wrong scale."""
    scheme = scheme_from_table("s", FP8)
    chosen = case(model)

    def found(arithmetic, round_=None):
        session = TorchBackend().load(model, scheme)
        if round_ is not None:
            session.module.rounding = round_
        return guilty(watched(model, session, scheme, chosen, arithmetic))

    def half(x):
        return x.to(torch.float16).to(x.dtype)

    def scaled(x):
        return half(x) * 1.02

    declared = Arithmetic(products="fp16")
    assert [] != found(Arithmetic(), half)
    assert [] == found(declared, half)
    assert [] != found(declared, scaled)


def test_rows_without_an_axis_of_the_batch_find_their_places(model):
    """An engine that computes few rows of its last layer is compared on those."""
    scheme = scheme_from_table("s", FP8)
    session = TorchBackend().load(model, scheme)
    chosen, names = case(model), [o.name for o in linears(model)]
    plain = dict(session.run(chosen.inputs, capture=names))
    wanted = np.unique(chosen.inputs["positions"])
    flat = {n: a[0] if n != "logits" else a for n, a in plain.items()}
    for part in ("gate", "up", "down"):
        name = f"model.layers.1.mlp.{part}_proj"
        for shown in (name, f"{name}/input"):
            flat[shown] = flat[shown][wanted]
    wrong = dict(flat)
    wrong["model.layers.1.mlp.down_proj/input"] = flat[
        "model.layers.1.mlp.down_proj/input"
    ][::-1]

    def paths_of(outputs, inputs):
        paths = Paths(model, scheme, linears(model), session.arithmetic(), seed=1)
        paths.add(inputs, outputs)
        return {entry.after: entry for entry in paths.result()}

    found, spoilt = paths_of(flat, chosen.inputs), paths_of(wrong, chosen.inputs)
    down = "model.layers.1.mlp.down_proj"
    assert found[down].elements == len(wanted) * 64
    assert all(e.residual_sq <= e.noise_sq for e in found.values())
    assert spoilt[down].residual_sq > 100 * spoilt[down].noise_sq
    # Of several rows without that axis nobody knows which is whose.
    two = {name: np.repeat(a, 2, axis=0) for name, a in chosen.inputs.items()}
    assert paths_of({n: np.repeat(a, 2, axis=0) for n, a in flat.items()}, two) == {}


def test_llama_cpp_is_explained_between_its_operators(model):
    """Norms, attention, residual sums, the head: its prompts read whole and in pieces.

    But for the values that its fused attention sums in FP16 where few tokens are read
    at once: docs/deviations.md.
    """
    pytest.importorskip("xllamacpp", reason="needs the extra llamacpp")
    from harness.backends.llama_cpp_backend import LlamaCppBackend

    scheme, chosen = scheme_from_table("gguf_f16", F16), case(model, times=12)
    found = {}
    for fused in (None, False):
        session = LlamaCppBackend(fused=fused).load(model, scheme)
        found[fused] = guilty(watched(model, session, scheme, chosen))
        session.close()

    assert 900 == chosen.inputs["input_ids"].size
    assert [] == found[False]
    attention = [f"model.layers.{i}.self_attn" for i in range(2)]
    assert found[None] == [f"{a}.v_proj -> {a}.o_proj, in pieces" for a in attention]


@pytest.mark.parametrize(
    ("part", "place"),
    [
        ("model.embed_tokens", "inputs -> model.layers.0.self_attn.q_proj"),
        (
            "model.layers.1.post_attention_layernorm",
            "model.layers.1.self_attn.o_proj -> model.layers.1.mlp.gate_proj",
        ),
        ("model.norm", "model.layers.1.mlp.down_proj -> output logits"),
        ("lm_head", "model.layers.1.mlp.down_proj -> output logits"),
    ],
)
def test_what_a_scheme_leaves_alone_is_checked(model, part, place):
    """Embeddings, norms and the head in FP8 are seen first where they are.

    No scheme names them, and every operator is right.
    """
    scheme = scheme_from_table("s", FP8)
    session = TorchBackend().load(model, scheme)
    layer = session.module.get_submodule(part)
    # Off the middle, which a norm of ones stays on.
    narrow = (layer.weight.detach() * 1.1).to(torch.float8_e4m3fn)
    layer.weight = torch.nn.Parameter(narrow.to(torch.float32))

    assert place == guilty(watched(model, session, scheme, case(model)))[0]


class Asked:
    """A session that remembers what it was asked in pieces, and shows nothing."""

    watches_pieces = True

    def __init__(self):
        self.asked = []

    def run_in_pieces(self, inputs, size, *, capture):
        self.asked.append((inputs["input_ids"].size, size, len(capture)))
        return {}


def test_the_longest_prompt_that_can_be_held_is_read_in_pieces(model):
    """Of 24 tokens, two pieces at least; without operators to watch none is."""
    session, scheme = Asked(), scheme_from_table("s", FP8)

    def prompt(length):
        ids = np.broadcast_to(np.int64(0), (1, length))
        return Case(str(length), {"input_ids": ids, "positions": np.zeros((1, 8))})

    for lengths, operators in (
        ((30, 700, 500, 10**8), linears(model)),
        ((20, 7), linears(model)),
        ((700,), []),
    ):
        paths = Paths(model, scheme, operators, Arithmetic(), seed=1)
        paths.in_pieces(session, [prompt(length) for length in lengths])

    assert session.asked == [(700, 24, 14), (20, 10, 14)]
