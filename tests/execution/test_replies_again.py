"""A reply and the logits before its own tokens agree, or a server changed one."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from harness.backends.torch_backend import TorchBackend
from harness.defects import PlantedBackend, Planting
from harness.execution.errors_by_case import paired
from harness.execution.jobs import Repeat, TargetRun
from harness.execution.replies import (
    REPLY,
    limit_of_replies,
    replies_again,
    replies_and_logits,
    replies_of,
)
from harness.judge.evidence import Paired
from harness.models.types import Case
from harness.schemes.catalogue import scheme_by_name
from tests.models.tiny_language import tiny_language

SCHEME = dataclasses.replace(scheme_by_name("fp8_weight_only"), keep=("lm_head",))
#: The same sums in another order, of float32; measured 3e-8.
NOISE = 1e-5
WORDS = ("one", "two", "hello there", "four 4", "five")


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """A language model of a few thousand weights, whose replies end now and then."""
    with tiny_language(tmp_path_factory.mktemp("tiny"), seed=3) as found:
        _ = found.operators()
        yield found


def cases(model):
    """Prompts to be continued; every other one is sampled."""
    found = []
    for number, word in enumerate(WORDS):
        asked = {"tokens": 9, "temperature": 0.7 * (number % 2), "seed": number}
        ids = np.array([model.prompt_tokens({"prompt": word})], np.int64)
        inputs = {
            "input_ids": ids,
            "attention_mask": np.ones_like(ids),
            "positions": np.array([[ids.shape[1] - 1]]),
        }
        expected = {"generate": asked}
        found.append(Case(id=f"c{number}", inputs=inputs, expected=expected))
    return found


def difference(model, backend, change=None):
    """Relative L2 over all replies."""
    session = backend.load(model, SCHEME)
    asked = cases(model)
    replies = replies_of(session, model, asked, batch=4)
    if change is not None:
        replies = {name: change(model, reply) for name, reply in replies.items()}
    return paired(*replies_and_logits(session, model, asked, replies)).ratio


def planted(name, **changes):
    return PlantedBackend(TorchBackend("fp32"), Planting(defect=name, **changes))


def test_replies_of_a_faithful_session_agree(model):
    """Greedy and sampled, in one batch through the cache, and alone in one go."""
    assert difference(model, TorchBackend("fp32")) < NOISE


@pytest.mark.parametrize(
    "name",
    [
        "answer_cut_off",
        "answer_logprobs_shifted",
        "answer_last_tokens_missing",
        "answer_of_another_request",
        "answer_temperature_ignored",
        "answer_seed_ignored",
        "answer_prompt_logprobs_shifted",
        "answer_top_logprobs_reversed",
        "answer_logprobs_tempered",
    ],
)
def test_what_a_server_makes_of_an_answer_shows(model, name):
    """Far beyond noise, at catalogue strength; of exchanged replies all of them."""
    more = {"strength": 1.0} if name == "answer_of_another_request" else {}

    assert difference(model, planted(name, **more)) > 100 * NOISE


def _ended(model, reply):
    return dataclasses.replace(reply, ended=not reply.ended)


def _goes_on(model, reply):
    end = min(model.metadata["ends"])
    return dataclasses.replace(reply, tokens=np.insert(reply.tokens[1:], 0, end))


def _empty(model, reply):
    none = reply.tokens[:0]
    return dataclasses.replace(
        reply, tokens=none, probabilities=reply.probabilities[:0]
    )


@pytest.mark.parametrize("change", [_ended, _goes_on, _empty])
def test_a_reply_that_does_not_end_as_it_says_is_infinitely_wrong(model, change):
    """Whatever its tokens are."""
    assert np.isinf(difference(model, TorchBackend("fp32"), change))


def test_a_probability_of_zero_is_a_number(model):
    """Wrong, and not NaN, which no limit would hold."""

    def zero(_, reply):
        return dataclasses.replace(reply, probabilities=0 * reply.probabilities)

    found = difference(model, TorchBackend("fp32"), zero)

    assert np.isfinite(found)
    assert found > 100 * NOISE


def test_some_that_are_sampled_are_always_among_those_that_are_asked_again(model):
    """However many others there are: no greedy reply has a seed."""
    session = TorchBackend("fp32").load(model, SCHEME)
    greedy, sampled = cases(model)[::2], cases(model)[1]
    many = [dataclasses.replace(greedy[0], id=f"g{n}") for n in range(20)]
    asked = [*many, sampled]
    run = TargetRun(availability=None)
    run.replies = replies_of(session, model, asked, batch=4)
    run.outputs = {case.id: dict(session.run(case.inputs)) for case in asked}

    found = replies_again(session, model, asked, run)

    assert 13 == len(found.difference.cases)
    assert sampled.id in found.difference.cases
    assert found.difference.ratio < NOISE
    assert set(found.outputs) == set(found.difference.cases)


@pytest.mark.parametrize(
    ("ways", "limit", "source"),
    [
        ({"cache": 0.01, "padding": 0.001}, 0.01, "what the other ways"),
        ({"cache": 1e-9}, 1e-6, "what the other ways"),
        ({"cache": 0.2}, 0.07, "two draws"),
        ({"cache": float("nan")}, 0.07, "two draws"),
        ({"repeat": 0.0, "capture": 0.0}, 0.07, "two draws"),
    ],
)
def test_a_reply_may_be_as_far_off_as_other_ways_to_ask_the_same(ways, limit, source):
    """As measured in the run; never beyond the bound, never below the noise floor."""
    run = TargetRun(availability=None)
    one = np.array([1.0])
    run.repeats = tuple(
        Repeat(
            name=name,
            difference=Paired(
                cases=("a",), error_sq=np.square(one * ratio), reference_sq=one
            ),
            outputs={},
        )
        for name, ratio in {**ways, REPLY: 0.5}.items()
    )

    found = limit_of_replies(run, 0.07, "two draws", 1e-6)

    assert pytest.approx(limit) == found[0]
    assert found[1].startswith(source)
