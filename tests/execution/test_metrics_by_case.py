"""Every kind of output is measured by the catalogue, plugins' metrics included."""

from __future__ import annotations

import math

import numpy as np
import pytest

from harness.compare.catalogue import METRICS, Metric
from harness.compare.logits import compare_logits
from harness.execution.jobs import Description
from harness.execution.metrics_by_case import metrics
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


def measured(kind, reference, found, *, plugged=None, budgets=(), **more):
    """Metric -> its evidence, of one case."""
    kept = {"a": {"y": compact(reference, kind=kind, **more)}}
    golden = Golden(suite="s", model_fingerprint="", cases_fingerprint="", outputs=kept)
    entries = metrics(
        described(kind), golden, {"a": {"y": found}}, plugged=plugged, budgets=budgets
    )
    return {entry.name.removeprefix("y."): entry for entry in entries.metrics}


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
