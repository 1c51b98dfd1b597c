"""Is it really quantized?"""

from __future__ import annotations

import dataclasses

import pytest

from harness.judge import judge
from harness.judge.checks.artifact import (
    artifact,
    code_limit,
    code_span,
    weight_limit,
)
from harness.judge.evidence import Budget, WeightEvidence
from harness.judge.levels import Levels
from harness.judge.types import Verdict


def weight(**changes):
    plain = WeightEvidence(
        operator="encoder.0",
        expected="fp8_e4m3",
        found="fp8_e4m3",
        unexplained=0.0,
        elements=100_000,
    )
    return dataclasses.replace(plain, **changes)


def first(make, **changes):
    return artifact(make["evidence"](**changes), Levels()).results[0]


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"found": "int8", "stored_as": "INT8"}, "int8 stored as INT8"),
        ({"found": ""}, "not quantized, but should be fp8_e4m3"),
        ({"nonfinite_scales": 3}, "NaN or Inf scales=3"),
        ({"unusable_scales": 1}, "zero or negative scales=1"),
        ({"unexplained": float("nan")}, "unexplained=nan"),
        ({"unexplained": 0.5}, "unexplained=0.5"),
        ({"expected": "", "found": "", "altered": True}, "should be untouched"),
    ],
)
def test_a_weight_that_is_not_what_the_scheme_says_is_a_defect(make, changes, said):
    """Format, scales, decoded numbers and operators that are left alone."""
    found = first(make, weights=(weight(operator="fine"), weight(**changes)))

    assert found.verdict is Verdict.DEFECT
    assert said in found.reason
    assert "encoder.0" in found.reason


def test_codes_at_a_boundary_may_fall_either_way(make):
    """One ambiguous code of 100,000 is no defect; a scale off by a percent is."""
    one_code = (12 / 100_000) ** 0.5

    assert first(make, weights=(weight(unexplained=one_code),)).verdict is Verdict.PASS
    assert first(make, weights=(weight(unexplained=0.3),)).verdict is Verdict.DEFECT


@pytest.mark.parametrize("elements", [0, 1_000, 10_000_000])
@pytest.mark.parametrize("name", ["fp8_e4m3", "int8", "int4", "nvfp4", "mxfp8_e5m2"])
def test_the_limit_is_far_below_what_a_wrong_code_everywhere_leaves(name, elements):
    """Room for ambiguous codes, none for a wrong rule."""
    limit = weight_limit(weight(expected=name, elements=elements), 1e-4)

    assert 0 < limit < 0.2


def test_the_span_follows_from_the_format():
    """Mantissa bits for floats, bits for integers."""
    assert [code_span(n) for n in ("fp8_e4m3", "mxfp4", "int4", "int8", "odd")] == [
        16,
        4,
        8,
        128,
        128,
    ]


def test_a_person_may_allow_more(make):
    """A budget raises the limit and is named as its source."""
    budget = Budget(metric="unexplained.weights", limit=0.6, source="suite.toml:4")
    found = artifact(
        make["evidence"](
            weights=(weight(unexplained=0.5),),
            budgets={"unexplained.weights": budget},
        ),
        Levels(),
    )

    assert found.results[0].verdict is Verdict.PASS
    assert found.measurements[0].budget_source == "suite.toml:4"


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"drift": None}, "cases compared=0"),
        ({"weights": (), "operators": (), "end_to_end": None}, "quantized=0"),
    ],
)
def test_a_pass_that_would_say_nothing_is_vacuous(make, changes, said):
    """No outputs, or nothing that shows the scheme."""
    found = judge(make["evidence"](**changes))

    assert found.verdict is Verdict.VACUOUS
    assert said in found.reason


def test_no_cases_are_vacuous(make):
    """An empty comparison is no comparison."""
    found = judge(make["evidence"](drift=make["paired"](0.05, cases=0)))

    assert found.verdict is Verdict.VACUOUS


def test_outputs_equal_to_the_reference_are_vacuous(make):
    """Nothing moved though the oracle did: nothing was quantized."""
    found = judge(make["evidence"](drift=make["paired"](0.0)))

    assert found.verdict is Verdict.VACUOUS
    assert "nothing was quantized" in found.reason


def test_a_backend_that_shows_only_outputs_is_believed_by_its_operators(make):
    """Outputs nearer to the oracle than to full precision show the scheme."""
    found = first(make, weights=())

    assert found.verdict is Verdict.PASS


@pytest.mark.parametrize(
    ("expected", "inside", "said"),
    [
        (("a", "b"), ("a",), "missing b"),
        (("a",), ("a", "b"), "quantized input of b=yes"),
    ],
)
def test_inputs_are_quantized_where_the_scheme_says_and_nowhere_else(
    make, expected, inside, said
):
    """Both directions."""
    found = first(make, activations_expected=expected, activations_found=inside)

    assert found.verdict is Verdict.DEFECT
    assert said in found.reason


def test_a_backend_that_shows_no_weight_is_judged_by_its_operators(make):
    """One that shows some and lacks others is not quantized there."""
    hidden = weight(found="", unexplained=None)

    assert first(make, weights=(hidden, hidden)).verdict is Verdict.PASS
    assert first(make, weights=(weight(), hidden)).verdict is Verdict.DEFECT
    assert first(make, weights=(hidden,), operators=()).verdict is Verdict.DEFECT


def test_many_wrong_weights_are_one_reason(make):
    """The first in full, the others by name."""
    wrong = tuple(weight(operator=f"layer.{i}", found="int8") for i in range(9))
    found = first(make, weights=wrong)

    assert "weight of layer.0=int8" in found.reason
    assert "[9 operators: also layer.1, layer.2, layer.3 and 5 more]" in found.reason


@pytest.mark.parametrize("share", [0.9999, 1.0, 1.0001])
def test_full_precision_is_vacuous_however_its_roundings_fall(make, share):
    """An unquantized output stands as far from the oracle as quantization moves it."""
    operator = make["operator"](residual=0.01 * share)
    found = first(make, weights=(), operators=(operator,), end_to_end=None)

    assert found.verdict is Verdict.VACUOUS


@pytest.mark.parametrize(
    ("drift", "verdict"),
    [(0.001, Verdict.VACUOUS), (0.024, Verdict.VACUOUS), (0.05, Verdict.PASS)],
)
def test_a_backend_that_shows_nothing_must_move_as_the_scheme_does(
    make, drift, verdict
):
    """Only outputs: those that hardly left the reference were not quantized."""
    found = first(
        make,
        weights=(),
        operators=(),
        drift=make["paired"](drift, spread=0.0),
        oracle_drift=make["paired"](0.05, spread=0.0),
        end_to_end=make["paired"](0.05, spread=0.0),
    )

    assert found.verdict is verdict


def test_wrong_codes_of_small_blocks_are_counted(make):
    """Their energy is nothing beside the large blocks'; they are wrong all the same."""
    few = weight(unexplained=1e-6, differing=1)
    many = weight(unexplained=1e-6, differing=40)

    assert first(make, weights=(few,)).verdict is Verdict.PASS
    found = first(make, weights=(many,))
    assert found.verdict is Verdict.DEFECT
    assert "codes that are not the exact ones=40, but should be at most" in found.reason


def test_the_count_is_left_to_the_energy_that_a_person_allowed(make):
    """A backend whose codes differ with reason has a budget that says so."""
    budget = Budget(metric="unexplained.weights", limit=0.6, source="suite.toml:4")
    found = artifact(
        make["evidence"](
            weights=(weight(unexplained=0.5, differing=90_000),),
            budgets={"unexplained.weights": budget},
        ),
        Levels(),
    )

    assert found.results[0].verdict is Verdict.PASS


@pytest.mark.parametrize("elements", [1, 100, 10_000_000])
def test_no_more_codes_are_open_than_rounding_leaves(elements):
    """Of few elements none, of many some in a million."""
    limit = code_limit(weight(elements=elements), 1e-4)

    assert 0 <= limit <= 2 + elements * 3e-5
