"""Outputs that are wrong by themselves, and things that are not the same twice."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from harness.judge.checks.anomaly import anomaly
from harness.judge.checks.stability import stability
from harness.judge.evidence import Anomaly, MetricEvidence, StabilityEvidence
from harness.judge.levels import Levels
from harness.judge.types import Verdict


@pytest.mark.parametrize(
    ("kind", "verdict"),
    [
        ("nan", Verdict.DEFECT),
        ("inf", Verdict.DEFECT),
        ("zero", Verdict.DEFECT),
        ("constant", Verdict.DEFECT),
        ("shape", Verdict.ERROR),
        ("dtype", Verdict.ERROR),
        ("missing", Verdict.ERROR),
        ("extra", Verdict.ERROR),
    ],
)
def test_wrong_numbers_are_defects_and_garbage_is_an_error(make, kind, verdict):
    """As the table of verdicts says."""
    entry = Anomaly(case="c7", output="logits", kind=kind, detail="why")
    found = anomaly(make["evidence"](anomalies=(entry,)), Levels()).results

    assert [r.verdict for r in found] == [verdict]
    assert "case c7, output logits: why" in found[0].reason


def test_well_formed_outputs_pass(make):
    """And the check says on how many cases."""
    found = anomaly(make["evidence"](), Levels()).results

    assert [r.verdict for r in found] == [Verdict.PASS]
    assert "40 cases" in found[0].reason


def test_an_operator_that_is_not_finite_is_a_defect(make):
    """Even when the outputs have recovered."""
    operator = dataclasses.replace(make["operator"](), nonfinite=4)
    found = anomaly(make["evidence"](operators=(operator,)), Levels()).results

    assert found[0].verdict is Verdict.DEFECT
    assert "encoder.0" in found[0].reason


def test_case_ids_that_stand_twice_cannot_be_paired(make):
    """Which of the two would be compared?"""
    drift = make["paired"](0.05)
    drift = dataclasses.replace(drift, cases=("case-1", *drift.cases[1:]))
    found = anomaly(make["evidence"](drift=drift), Levels()).results

    assert found[0].verdict is Verdict.ERROR
    assert "case-1" in found[0].reason


def test_a_reference_that_is_not_finite_is_an_error(make):
    """NaN compared with NaN must not pass."""
    drift = make["paired"](0.05)
    drift.reference_sq[0] = np.nan
    found = anomaly(make["evidence"](drift=drift), Levels()).results

    assert Verdict.ERROR in {r.verdict for r in found}


def test_nan_among_scores_is_a_defect(make):
    """Named with the metric and the number of cases."""
    metric = MetricEvidence(
        name="y.kl", values=np.array([0.1, np.nan]), cases=("a", "b")
    )
    found = anomaly(make["evidence"](metrics=(metric,)), Levels()).results

    assert found[0].verdict is Verdict.DEFECT
    assert "y.kl is NaN in 1 cases" in found[0].reason


def test_a_distance_that_is_not_finite_is_a_defect(make):
    """An output that no longer compares with the reference."""
    drift = make["paired"](0.05)
    drift.error_sq[2] = np.nan
    found = anomaly(make["evidence"](drift=drift), Levels()).results

    assert found[0].verdict is Verdict.DEFECT
    assert "case-2" in found[0].reason


def repeat(differences, limit, cases=()):
    return StabilityEvidence(
        name="repeat",
        differences=np.array(differences),
        limit=limit,
        limit_source="declared exact",
        cases=cases,
    )


@pytest.mark.parametrize("worst", [1e-9, float("nan"), float("inf")])
def test_one_case_beyond_what_is_declared_is_unstable(make, worst):
    """The worst case counts, and NaN is the worst of all."""
    entry = repeat([0.0, worst], 0.0, cases=("a", "b"))
    found = stability(make["evidence"](stability=(entry,)), Levels())

    assert found.results[0].verdict is Verdict.UNSTABLE
    assert "case b" in found.results[0].reason
    assert "declared exact" in found.results[0].reason


def test_repetitions_within_the_limit_pass(make):
    """And are measured."""
    entries = (repeat([0.0], 0.0), repeat([0.1], 0.2), repeat([], 0.0))
    found = stability(make["evidence"](stability=entries), Levels())

    assert {r.verdict for r in found.results} == {Verdict.PASS}
    assert [m.value for m in found.measurements] == [0.0, 0.1]
