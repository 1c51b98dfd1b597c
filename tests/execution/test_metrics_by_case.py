"""Every kind of output is measured by the catalogue, plugins' metrics included."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest

from harness.behaviours.types import Reply
from harness.compare.catalogue import METRICS, Metric
from harness.compare.logits import compare_logits
from harness.execution.jobs import Description
from harness.execution.metrics_by_case import metrics, reply_metrics
from harness.golden.compact import compact
from harness.golden.store import Golden
from harness.models.types import TensorSpec

RNG = np.random.default_rng(5)


def described(kind):
    """A model with one output of the kind."""
    spec = TensorSpec("y", "float32", (None, None), kind)
    return Description(
        model_fingerprint="",
        cases_fingerprint="",
        cases=(),
        outputs=(spec,),
        metadata={},
    )


def measured(kind, reference, found, **more):
    """Metric -> its evidence, of one case."""
    entries = everything(kind, reference, found, **more).metrics
    return {entry.name.removeprefix("y."): entry for entry in entries}


def everything(kind, reference, found, *, plugged=None, budgets=(), **more):
    """Metrics and rows, of one case."""
    kept = {"a": {"y": compact(reference, kind=kind, **more)}}
    golden = Golden(suite="s", model_fingerprint="", cases_fingerprint="", outputs=kept)
    return metrics(
        described(kind), golden, {"a": {"y": found}}, plugged=plugged, budgets=budgets
    )


def probabilities(rows, classes):
    """Softmax of normal numbers."""
    x = np.exp(3 * RNG.standard_normal((rows, classes)))
    return (x / x.sum(axis=1, keepdims=True)).astype(np.float32)


@pytest.mark.parametrize("kind", ["tensor", "embedding", "distribution", "logits"])
def test_every_metric_of_the_kind_is_measured(kind):
    """Names, directions and units are the catalogue's; another output is worse."""
    x = probabilities(4, 20)
    other = measured(kind, x, RNG.random(x.shape).astype(np.float32))
    same = measured(kind, x, x)

    wanted = {name for needs, name in METRICS if needs == kind}
    assert wanted <= set(same)
    for name, entry in same.items():
        sign = 1 if entry.better == "lower" else -1
        assert sign * entry.values[0] < sign * other[name].values[0]


@pytest.mark.parametrize("found", ["nan", "shape", "none"])
def test_what_cannot_be_compared_is_the_worst(found):
    """NaN, another shape and a missing output pass no limit, in either direction."""
    x = probabilities(3, 50)
    y = {"nan": x * np.nan, "shape": x[:2], "none": None}[found]
    entries = measured("distribution", x, y)

    assert math.inf == entries["kl"].values[0]
    assert 0 == entries["top1_agreement"].values[0]


def test_a_plugin_adds_a_metric():
    """It is given arrays of one shape, what a compact golden kept included."""
    shapes = []

    def measure(reference, candidate):
        shapes.append((reference.shape, candidate.shape))
        return float(np.abs(reference - candidate).max())

    mine = Metric(
        name="mine",
        better="lower",
        unit="1",
        needs="distribution",
        worst=math.inf,
        measure=measure,
        summary="largest change of what was kept",
    )
    x = probabilities(3, 100)
    found = measured("distribution", x, x * 0.5, plugged={"mine": mine})

    assert [((3, 33), (3, 33))] == shapes
    assert pytest.approx(x.max() / 2, rel=1e-5) == found["mine"].values[0]


def test_the_classes_left_out_are_no_class():
    """Agreement is of the classes' own numbers, though the others outweigh them."""
    x = np.full((2, 1000), 1 / 1000, np.float32)
    x[:, 7] = 0.01
    y = x.copy()
    y[1, 900] = 0.5
    found = measured("distribution", x, y)

    assert 0.5 == found["top1_agreement"].values[0]
    assert 1 == measured("distribution", x, x)["top1_agreement"].values[0]


def test_kl_of_kept_classes_is_a_lower_bound():
    """The classes left out count as one: never above the whole divergence."""
    x, y = probabilities(5, 400), probabilities(5, 400)
    whole = compare_logits(np.log(x.astype(float)), np.log(y.astype(float))).kl
    found = measured("distribution", x, y)["kl"].values[0]

    assert 0 < found < whole


def test_compact_logits_are_compared_as_such():
    """KL from a golden of 400 bytes a token is near the whole one; labels count."""
    x = (3 * RNG.standard_normal((40, 3000))).astype(np.float32)
    y = x + 0.3 * RNG.standard_normal(x.shape).astype(np.float32)
    labels = RNG.integers(0, 3000, 40)
    exact = compare_logits(x, y, labels=labels)
    found = measured("logits", x, y, labels=labels)

    assert pytest.approx(exact.kl, rel=0.05) == found["kl"].values[0]
    assert exact.top1_agreement == found["top1_agreement"].values[0]
    assert pytest.approx(exact.delta_p_rms, abs=4e-5) == found["delta_p_rms"].values[0]
    assert "delta_p_rms" not in measured("logits", x, y)


def test_right_tokens_that_lose_probability_have_a_direction():
    """Where a budget asks for it, the direction check gets the score's change."""
    x = (3 * RNG.standard_normal((40, 3000))).astype(np.float32)
    labels = x.argmax(axis=1)
    y = x * 0.8
    asked = measured("logits", x, y, labels=labels, budgets=["y.delta_p.loss"])
    exact = compare_logits(x, y, labels=labels)

    assert asked["delta_p"].values[0] < 0
    assert pytest.approx(exact.delta_p, abs=4e-5) == asked["delta_p"].values[0]
    assert [0.0] == asked["delta_p"].reference.tolist()
    assert measured("logits", x, y, labels=labels)["delta_p"].reference is None


def test_rows_are_those_of_the_comparison():
    """KL and the change of probability by token, with the quantiles that are taken."""
    x, y = np.log(probabilities(6, 3000)), np.log(probabilities(6, 3000))
    labels = np.array([3, -1, 5, 7, -1, 2])
    rows = {r.name: r for r in everything("logits", x, y, labels=labels).rows}

    assert {"y.kl", "y.delta_p"} == set(rows)
    assert 6 == len(rows["y.kl"].rows[0])
    assert 4 == len(rows["y.delta_p"].rows[0])
    assert {"median", "p90", "p95", "p99", "p99.9", "max"} == set(
        rows["y.kl"].quantiles
    )
    assert (rows["y.kl"].rows[0] > 0.1).all()


def test_rows_that_cannot_be_compared_are_the_worst():
    """NaN in the target is an infinite KL; without right tokens there are no rows."""
    x = np.log(probabilities(3, 300))
    (rows,) = everything("logits", x, x * np.nan).rows

    assert "y.kl" == rows.name
    assert [math.inf] == rows.rows[0].tolist()


def reply(*tokens):
    """A reply of those tokens."""
    return Reply(
        text="",
        tokens=np.array(tokens),
        probabilities=np.ones(len(tokens), np.float32),
        ended=True,
        prompt="",
    )


def test_the_first_other_token():
    """Tokens before it; all of them where none differs; other cases do not count."""
    recorded = {"a": reply(1, 2, 3), "b": reply(1, 2), "c": reply(5)}
    found = {"a": reply(1, 9, 3), "b": reply(1, 2, 7), "d": reply(4)}
    entry = reply_metrics(recorded, found)[0]

    assert "reply.first_divergence" == entry.name
    assert ("a", "b") == entry.cases
    assert [1.0, 2.0] == entry.values.tolist()
    assert "higher" == entry.better
    assert [] == reply_metrics(recorded, {})


def test_edits_are_a_share_of_the_longer_reply():
    """Of tokens and of characters; nothing and nothing are the same."""
    recorded = {"a": reply(1, 2, 3, 4), "b": reply(1), "c": reply()}
    found = {"a": reply(1, 2, 9), "b": reply(1), "c": reply()}
    words = dataclasses.replace(recorded["a"], text="kitten")
    others = dataclasses.replace(found["a"], text="sitting")
    entries = {e.name: e for e in reply_metrics(recorded, found)}
    (texts,) = reply_metrics({"a": words}, {"a": others})[2:]

    assert [0.5, 0.0, 0.0] == entries["reply.token_edits"].values.tolist()
    assert "reply.character_edits" == texts.name
    assert [3 / 7] == texts.values.tolist()
    assert {"lower"} == {e.better for e in (texts, entries["reply.token_edits"])}
