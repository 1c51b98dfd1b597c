"""Planters and diagnosis know nothing of each other; held against each other here."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from harness.defects import DEFECTS, Planting, Site, Trigger, Unfit
from harness.defects.plant import PlantedOperator, clean_weight
from harness.diagnose import UNKNOWN, Call, Observation, diagnose
from harness.execution.selftest.causes import CAUSES, right_cause
from harness.execution.selftest.trial import Trial
from harness.models.types import Operator
from harness.schemes.apply import plan_one, quantize_activation
from harness.schemes.catalogue import SCHEMES
from harness.schemes.linear_algebra import add_bias, product

LAYERS = [
    name
    for name, entry in DEFECTS.items()
    if entry.place in {"weight", "stored", "input", "output"}
]
SCHEMES_HERE = ("fp8_e4m3", "fp8_e4m3_static", "mxfp8", "nvfp4", "int8", "int4")


def make_operator(name, seed):
    """(96, 96), with rows and columns of different sizes and a block of zeros."""
    rng = np.random.default_rng(seed)
    weight = rng.standard_normal((96, 96)) * np.exp(rng.normal(0, 0.5, (96, 1)))
    weight *= np.exp(rng.normal(0, 0.4, (1, 96)))
    weight[3, :32] = 0
    bias = rng.standard_normal(96).astype(np.float32)
    return Operator(
        name=name, kind="linear", weight=weight.astype(np.float32), bias=bias
    )


def observe(scheme, name, strength=None):
    """Three calls of an operator with the defect in it; None: nothing was changed."""
    operator, other = make_operator("fc", 0), make_operator("other", 5)
    found = dataclasses.replace(SCHEMES[scheme], calibration={"fc": 8.0, "other": 8.0})
    site = Site(operator, found, other)
    rng = np.random.default_rng(2)
    try:
        planting = Planting(defect=name, strength=strength, trigger=Trigger())
        planted = PlantedOperator(site, DEFECTS[name], planting)
        calls = []
        for index in range(3):
            x = rng.standard_normal((2, 37, 96)) * np.exp(
                rng.normal(0, 0.5, (2, 37, 1))
            )
            x = x.astype(np.float32)
            entry = x
            if plan_one(found, operator).activations:
                entry = quantize_activation(operator, x, found).dequantize()
            y = add_bias(operator, product(operator, entry, clean_weight(site)))
            calls.append(Call(x, planted(x, y.astype(np.float32)), index))
    except Unfit:
        return None
    if not planted.fired:
        return None
    return Observation(operator, found, tuple(calls), others=(other,))


def named(name, scheme):
    """Right, wrong with confidence, or neither; None: nothing to name."""
    seen = observe(scheme, name)
    if seen is None:
        return None
    found = diagnose(seen)
    if found.before <= found.limit:
        return None
    trial = Trial(
        suite="s",
        target=scheme,
        planting=Planting(defect=name),
        cause=found.cause,
        confidence=found.confidence,
    )
    right = right_cause(trial)
    if right:
        return "right"
    return "wrong" if right is False and found.confidence >= 0.9 else "unknown"


def test_every_defect_of_a_layer_has_names():
    """A defect that nobody may name would never count."""
    assert set(LAYERS) <= set(CAUSES)
    assert set(CAUSES) <= set(DEFECTS)


def test_a_wrong_name_counts_as_wrong():
    """The scoring can fail."""
    planting = Planting(defect="bias_missing")
    wrong = Trial(suite="s", target="t", planting=planting, cause="output zero")
    unknown = Trial(suite="s", target="t", planting=planting, cause=UNKNOWN)
    right = Trial(suite="s", target="t", planting=planting, cause="bias missing")

    assert right_cause(wrong) is False
    assert right_cause(unknown) is None
    assert right_cause(right) is True


@pytest.mark.parametrize("name", LAYERS[::9])
def test_a_sample_of_causes_is_named_rightly(name):
    """Every ninth defect, in the first scheme that it fits."""
    verdicts = [v for v in (named(name, s) for s in SCHEMES_HERE[:3]) if v]

    assert "wrong" not in verdicts


@pytest.mark.quant_slow
def test_causes_over_the_whole_catalogue():
    """Right in at least 90%, wrong with confidence in at most 1%."""
    found = {
        (name, scheme): named(name, scheme)
        for name in LAYERS
        for scheme in SCHEMES_HERE
    }
    counted = {key: value for key, value in found.items() if value}
    wrong = [key for key, value in counted.items() if value == "wrong"]
    unknown = [key for key, value in counted.items() if value == "unknown"]

    assert len(counted) > 200
    assert len(wrong) <= 0.01 * len(counted), wrong
    assert len(unknown) + len(wrong) <= 0.1 * len(counted), unknown
