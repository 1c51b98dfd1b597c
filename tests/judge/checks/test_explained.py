"""Does the backend compute what the scheme says?"""

from __future__ import annotations

import dataclasses

import pytest

from harness.compare.operator_evidence import PathEvidence
from harness.judge import judge
from harness.judge.checks.explained import explained
from harness.judge.evidence import Acknowledgement, Budget
from harness.judge.levels import Levels
from harness.judge.types import Verdict


def test_the_guilty_operator_is_named(make):
    """One of forty, with how far it is beyond its own limit."""
    operators = [make["operator"](f"layer.{i}") for i in range(40)]
    operators[7] = make["operator"]("layer.7", residual=1e-4)
    found = judge(make["evidence"](operators=tuple(operators)))

    assert found.verdict is Verdict.DEFECT
    assert "operator layer.7; 1 of 40" in found.reason
    assert [o.name for o in found.operators if o.guilty] == ["layer.7"]
    assert found.measurements["unexplained"].value == pytest.approx(0.1)


def test_the_limit_follows_the_arithmetic_and_no_constant(make):
    """The same residual is a defect in fp32 and noise in bf16."""
    fine = make["operator"](residual=1e-4, explained=1e-4)
    broken = make["operator"](residual=1e-4, explained=1e-8)

    assert judge(make["evidence"](operators=(fine,))).verdict is Verdict.PASS
    assert judge(make["evidence"](operators=(broken,))).verdict is Verdict.DEFECT


def test_noise_that_was_measured_counts_like_theory(make):
    """What the operator moves by when nothing changed is no defect."""
    operator = make["operator"](residual=1e-4, explained=1e-8)
    noisy = dataclasses.replace(operator, measured_sq=1e-4)

    assert judge(make["evidence"](operators=(noisy,))).verdict is Verdict.PASS


def test_a_guilty_operator_does_not_hide_another(make):
    """Holm goes on after the first rejection."""
    operators = tuple(make["operator"](f"layer.{i}", residual=1e-3) for i in range(3))
    found = judge(make["evidence"](operators=operators))

    assert [o.guilty for o in found.operators] == [True] * 3


def test_a_person_may_allow_more(make):
    """`unexplained = 0.2` in the suite passes what theory does not explain."""
    budget = Budget(metric="unexplained", limit=0.2, source="suite.toml:3")
    evidence = make["evidence"](
        operators=(make["operator"](residual=1e-4),), budgets={"unexplained": budget}
    )
    found = explained(evidence, Levels())

    assert found.results[0].verdict is Verdict.PASS
    assert found.measurements[0].budget_source == "suite.toml:3"


@pytest.mark.parametrize("residual", [float("nan"), float("inf")])
def test_a_residual_that_is_not_finite_is_guilty(make, residual):
    """NaN satisfies no limit."""
    found = judge(make["evidence"](operators=(make["operator"](residual=residual),)))

    assert found.verdict is Verdict.DEFECT


def test_an_operator_without_any_noise_must_be_exact(make):
    """Nothing expected, so nothing is explained; nothing seen is fine."""
    exact = make["operator"](residual=0.0, explained=0.0)
    off = make["operator"](residual=1e-12, explained=0.0)

    assert judge(make["evidence"](operators=(exact,))).verdict is Verdict.PASS
    assert judge(make["evidence"](operators=(off,))).verdict is Verdict.DEFECT


def test_a_scheme_that_changes_nothing_is_measured_against_the_signal(make):
    """Weights that the format holds exactly leave no quantization to divide by."""
    operator = dataclasses.replace(
        make["operator"](residual=0.01, explained=1e-8), quantization_sq=0.0
    )
    found = judge(make["evidence"](operators=(operator,)))

    assert found.verdict is Verdict.DEFECT
    assert found.operators[0].unexplained == pytest.approx(0.1)


def test_end_to_end_catches_what_no_operator_shows(make):
    """A weight-only target whose outputs are not the oracle's."""
    found = judge(make["evidence"](operators=(), end_to_end=make["paired"](0.02)))

    assert found.verdict is Verdict.DEFECT
    assert "end to end" in found.reason


def test_end_to_end_says_nothing_where_activations_are_quantized(make):
    """There a last bit grows into half of the drift in a faultless backend."""
    evidence = make["evidence"](weight_only=False, end_to_end=make["paired"](0.02))

    assert judge(evidence).verdict is Verdict.PASS


def test_end_to_end_needs_some_noise_to_judge_by(make):
    """Without operators and without a measured floor nothing is decided."""
    evidence = make["evidence"](operators=(), noise_floor=0.0)

    assert explained(evidence, Levels()).results == ()


def path(after="norm", residual=1e-12, noise=1e-12):
    """A path whose error is as large as rounding makes it."""
    return PathEvidence(
        before="encoder.0",
        after=after,
        residual_sq=residual,
        noise_sq=noise,
        signal_sq=1.0,
        elements=1000,
    )


def test_the_first_wrong_path_is_named(make):
    """Operators are all right; what leads from one to the next is not."""
    paths = (path("a"), path("b", residual=1e-4), path("c", residual=1e-3))
    found = judge(make["evidence"](paths=paths))

    assert found.verdict is Verdict.DEFECT
    assert "encoder.0 -> b; the first of 2 of 3 paths" in found.reason
    assert [False, True, True] == [entry.guilty for entry in found.paths]
    assert not any(entry.guilty for entry in found.operators)
    worst = found.measurements["unexplained.between"]
    assert worst.value == pytest.approx(1e-3**0.5)


def test_paths_that_rounding_explains_pass_and_are_counted(make):
    """A pass says that they were looked at, or why not."""
    whole = explained(make["evidence"](paths=(path(), path("b"))), Levels())
    none = explained(make["evidence"](paths_skipped="x runs twice"), Levels())

    assert "2 paths between them within theirs" in whole.results[1].reason
    assert "what lies between is unchecked: x runs twice" in none.results[0].reason
    assert [Verdict.PASS] * 3 == [r.verdict for r in (*whole.results, *none.results)]


def test_a_person_may_allow_a_path_more(make):
    """`unexplained.between = 0.1` in the suite."""
    budget = Budget(metric="unexplained.between", limit=0.1, source="suite.toml:3")
    evidence = make["evidence"](
        paths=(path(residual=1e-4),), budgets={"unexplained.between": budget}
    )
    found = explained(evidence, Levels())

    assert [Verdict.PASS, Verdict.PASS] == [entry.verdict for entry in found.results]
    assert "suite.toml:3" == found.measurements[1].budget_source


@pytest.mark.parametrize(
    ("accepted", "verdict"), [(0.02, "changed"), (0.005, "defect")]
)
def test_an_acknowledged_path_is_held_to_what_was_accepted(make, accepted, verdict):
    """By its name, and no worse than stated."""
    entry = Acknowledgement(
        target="toy/torch/fp8_e4m3",
        check="explained",
        metric="",
        limit=1.0,
        operators={"encoder.0 -> norm": accepted},
        reason="bug 7",
        author="jo",
        expires="2026-12-31",
        source="budgets.toml:1",
    )
    evidence = make["evidence"](paths=(path(residual=1e-4),), acknowledgements=(entry,))

    assert verdict == judge(evidence).verdict


def test_operators_that_were_not_seen_are_said_to_be(make):
    """A pass that rests on outputs alone says so."""
    evidence = make["evidence"](operators=(), uncaptured="it shows nothing")

    found = explained(evidence, Levels())

    assert "operators not judged: it shows nothing" in found.results[-1].reason
    assert all(entry.verdict is Verdict.PASS for entry in found.results)
