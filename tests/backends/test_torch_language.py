"""A language model in torch: generation, cache, and what must not change its logits."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from harness.backends import torch_generate
from harness.backends.protocol import KV_CACHE, Request
from harness.backends.torch_backend import TorchBackend
from harness.backends.torch_kv import cache_rounding, holds_what_it_should
from harness.errors import UnsupportedError, UsageError
from harness.execution.cases_run import run_cases
from harness.execution.metamorphic import ask_again
from harness.schemes.catalogue import scheme_by_name, scheme_from_table
from tests.backends.language_texts import NEAR, TEXTS, cases
from tests.models.tiny_language import tiny_language


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    with tiny_language(tmp_path_factory.mktemp("tiny"), seed=3) as found:
        _ = found.operators()
        yield found


@pytest.fixture(scope="module")
def session(model):
    return TorchBackend("fp32").load(model, None)


def requests(model, longest=12, **more):
    return [
        Request(
            name=text,
            tokens=np.array(model.prompt_tokens({"text": text})),
            longest=longest,
            **more,
        )
        for text in TEXTS
    ]


def tokens(found):
    return {name: entry.tokens.tolist() for name, entry in found.items()}


def uncached(model, request, count):
    """Greedy tokens by running the whole sequence anew for every token."""
    module, ids = model.module(), request.tokens.tolist()
    for _ in range(count):
        row = torch.tensor([ids])
        last = torch.tensor([[len(ids) - 1]])
        with torch.inference_mode():
            logits = module(
                input_ids=row, attention_mask=torch.ones_like(row), positions=last
            )["logits"]
        ids.append(int(logits[0, 0].argmax()))
        if ids[-1] == model.end:
            break
    return ids[len(request.tokens) :]


def test_the_cache_changes_nothing(model, session):
    """Token by token through the cache is the whole sequence anew."""
    asked = requests(model)
    found = tokens(session.generate(asked, batch=1))

    assert {r.name: uncached(model, r, 12) for r in asked} == found


def test_neighbours_in_a_batch_change_nothing(model, session):
    """Nor the order of the requests, nor padding, nor a neighbour that ends."""
    asked = requests(model)
    alone = tokens(session.generate(asked, batch=1))

    assert alone == tokens(session.generate(asked, batch=3))
    assert alone == tokens(session.generate(asked[::-1], batch=4))


def test_long_prompts_are_continued_a_few_at_a_time(model, session, monkeypatch):
    """The keys and values of all of them would be held at once."""
    steps = []
    inner = session.module.step

    def step(ids, mask, cache):
        steps.append(mask.numel())
        return inner(ids, mask, cache)

    monkeypatch.setattr(session.module, "step", step)
    asked = requests(model)
    alone = tokens(session.generate(asked, batch=4))
    longest = max(len(request.tokens) for request in asked)
    assert max(steps) > longest + 12

    steps.clear()
    monkeypatch.setattr(torch_generate, "MOST_TOKENS", longest)

    assert alone == tokens(session.generate(asked, batch=4))
    assert max(steps) <= longest + 12


def test_sampling_is_reproducible_and_depends_on_its_seed(model, session):
    """And on the request alone, not on the batch."""
    warm = {"longest": 16, "temperature": 2.0}
    first = tokens(session.generate(requests(model, seed=1, **warm), batch=4))

    assert first == tokens(session.generate(requests(model, seed=1, **warm), batch=1))
    assert first != tokens(session.generate(requests(model, seed=2, **warm), batch=4))


def test_a_reply_stops_at_its_limit_or_its_end(model, session):
    """And says which; probabilities are those of its tokens."""
    found = session.generate(requests(model, longest=5), batch=4)

    for entry in found.values():
        assert len(entry.tokens) == len(entry.probabilities) <= 5
        assert entry.ended == (entry.tokens[-1] == model.end)
        assert ((entry.probabilities > 0) & (entry.probabilities <= 1)).all()


def test_any_of_several_ends_ends_a_reply(model, session):
    """The token is kept, as the one end is."""
    asked = requests(model)
    plain = session.generate(asked, batch=4)
    module = session.module
    first = {name: entry.tokens[0] for name, entry in plain.items()}
    before, module.ends = module.ends, (*module.ends, *first.values())
    found = session.generate(asked, batch=4)
    module.ends = before

    for name, entry in found.items():
        assert entry.ended
        assert entry.tokens.tolist() == [first[name]]


def test_padding_what_follows_and_pieces_change_nothing(model, session):
    """Three ways to ask the same."""
    asked = cases(model)
    plain = {case.id: session.run(case.inputs)["logits"] for case in asked}
    found = ask_again(session, asked)

    assert {"padding", "what follows", "cache"} == set(found)
    for outputs in found.values():
        for name, wanted in plain.items():
            np.testing.assert_allclose(outputs[name]["logits"], wanted, **NEAR)


def moved(model, change, way):
    """How far a way to ask the same moves the logits of a broken model."""
    broken = TorchBackend("fp32").load(model, None)
    change(broken._module)
    asked = cases(model)[:1]
    plain = broken.run(asked[0].inputs)["logits"]
    return np.abs(ask_again(broken, asked)[way][asked[0].id]["logits"] - plain).max()


def see_the_future(module):
    """Every position is told the mean of all."""
    module.model.layers[0].register_forward_hook(
        lambda _, __, out: out + out.mean(dim=1, keepdim=True)
    )


def read_padding(module):
    """Positions are counted from the row's start, and the mask is dropped."""
    module.model.register_forward_pre_hook(
        lambda _, args, kwargs: (
            args,
            kwargs | {"attention_mask": None, "position_ids": None},
        ),
        with_kwargs=True,
    )


def forget(module):
    """The second piece finds the first one's line of the cache empty."""
    grow = module.new_cache

    def stale():
        cache = grow()
        layer = cache.layers[0]
        update = layer.update

        def broken(keys, values, *args, **kwargs):
            both = update(keys, values, *args, **kwargs)
            if both[0].shape[-2] > keys.shape[-2]:
                both[0][..., 3, :] = 0
            return both

        layer.update = broken
        return cache

    module.new_cache = stale


@pytest.mark.parametrize(
    ("change", "way"),
    [
        (see_the_future, "what follows"),
        (read_padding, "padding"),
        (forget, "cache"),
    ],
)
def test_a_model_that_breaks_a_property_is_seen(model, change, way):
    """Future tokens that are seen, padding that is read, a stale line of the cache."""
    assert moved(model, change, way) > 100 * NEAR["atol"]


CACHES = (
    {"format": "fp8_e4m3"},
    {"format": "fp8_e4m3", "granularity": "head"},
    {"format": "fp8_e4m3", "granularity": "token"},
    {"format": "int8", "granularity": "head"},
    {"format": "int8", "granularity": "token"},
    {"format": "mxfp4"},
    {"format": "nvfp4"},
)


@pytest.mark.parametrize("table", CACHES, ids=lambda t: "-".join(t.values()))
def test_a_cache_holds_exactly_what_numerics_says(table):
    """Scales 1 % off, or values as they were, are not what the scheme says."""
    tensor = scheme_from_table("kv", {"kv_cache": table}).kv_cache
    rounding = cache_rounding(tensor)

    assert holds_what_it_should(rounding, tensor)
    assert not holds_what_it_should(lambda x: rounding(x * 1.01), tensor)
    assert not holds_what_it_should(lambda x: x, tensor)
    assert not holds_what_it_should(None, tensor)


@pytest.mark.parametrize("table", CACHES, ids=lambda t: "-".join(t.values()))
def test_a_quantized_cache_moves_the_logits_alike_in_one_piece_and_in_many(
    model, session, table
):
    """Whole prompt or piece by piece; not where the cache is full precision."""
    scheme = scheme_from_table("kv", {"kv_cache": table})
    quantized = TorchBackend().load(model, scheme)
    case = cases(model)[2]
    whole = quantized.run(case.inputs)["logits"]

    pieces = quantized.run_in_pieces(case.inputs, 7)["logits"]
    # A last bit can move a key across a rounding boundary.
    assert np.linalg.norm(pieces - whole) < 0.05 * np.linalg.norm(
        whole - session.run(case.inputs)["logits"]
    ) + 1e-4 * np.linalg.norm(whole)
    assert not np.allclose(whole, session.run(case.inputs)["logits"], **NEAR)
    assert [KV_CACHE] == list(quantized.artifact().activations)


def test_one_scale_for_a_cache_of_integers_needs_calibration():
    """Rather than a scale that nobody chose."""
    scheme = scheme_from_table("kv", {"kv_cache": {"format": "int8"}})

    with pytest.raises(UnsupportedError, match="calibration"):
        cache_rounding(scheme.kv_cache)


@pytest.mark.parametrize(
    "table",
    [
        {"granularity": "head"},
        {"format": "mxfp4", "granularity": "head"},
        {"format": "fp8_e4m3", "granularity": "channel"},
        {"format": "fp8_e4m3", "scale": 1},
        "fp8_e4m3",
    ],
)
def test_a_malformed_cache_scheme_is_refused(table):
    """With the key that is wrong."""
    with pytest.raises(UsageError, match="kv_cache"):
        scheme_from_table("kv", {"kv_cache": table})


def test_a_scheme_with_a_cache_is_not_weight_only():
    """So that no oracle without the cache's rounding is held against it."""
    scheme = scheme_from_table(
        "kv", {"base": "fp8_weight_only", "kv_cache": {"format": "fp8_e4m3"}}
    )

    assert not scheme.weight_only


def test_fp8_products_of_a_language_model_are_emulated_on_the_cpu(model):
    """The kernel unpacks the whole weight for every token."""
    found = TorchBackend(device="cpu").load(model, scheme_by_name("fp8_e4m3"))

    assert "emulated" == found.arithmetic().execution


def test_operators_of_a_language_model_are_told_of_one_by_one(model, session):
    """With the arrays that a plain capture returns, and none of them held."""
    inputs = cases(model)[2].inputs
    names = [operator.name for operator in model.operators()]
    held = session.run(inputs, capture=names)
    seen = {}
    found = run_cases(
        session,
        model,
        cases(model)[2:3],
        batch=1,
        capture=names,
        on_capture=lambda name, x, y: seen.setdefault(name, (x, y)),
    )

    assert names == list(seen)
    for name, (x, y) in seen.items():
        np.testing.assert_array_equal(held[f"{name}/input"], x)
        np.testing.assert_array_equal(held[name], y)
    assert not session._captured
    assert {"logits"} == set(next(iter(found.outputs.values())))
