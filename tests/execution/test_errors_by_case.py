"""Squared errors by case: units do not matter, NaN never passes for small."""

import numpy as np
import pytest

from harness.execution.errors_by_case import paired


def one(value, name="y"):
    """A run of one case with one output."""
    return {"a": {name: np.array(value, dtype=np.float64)}}


def test_identical_runs_have_no_error():
    """The same twice is exactly zero, Inf and NaN included."""
    run = one([1.0, np.inf, np.nan])

    assert 0 == paired(run, run).ratio


def test_ratio_is_relative_l2():
    """With one output the ratio is ||t - r|| / ||r||."""
    assert pytest.approx(0.1) == paired(one([3.0, 4.0]), one([3.0, 4.5])).ratio


def test_units_of_outputs_do_not_matter():
    """A thousandfold larger output does not drown the other."""
    small = {"y": np.array([1.0]), "z": np.array([1000.0])}
    wrong = {"y": np.array([2.0]), "z": np.array([1000.0])}

    assert pytest.approx(np.sqrt(0.5)) == paired({"a": small}, {"a": wrong}).ratio


@pytest.mark.parametrize(
    "found", [[np.nan, 4.0], [np.inf, 4.0], [3.0], [[3.0, 4.0]], [3.0, 4.0, 5.0]]
)
def test_garbage_is_infinitely_wrong(found):
    """NaN, Inf and another shape are an infinite error, never a small one."""
    assert np.inf == paired(one([3.0, 4.0]), one(found)).ratio


def test_a_missing_output_is_infinitely_wrong():
    """An output that the target does not give cannot be within budget."""
    assert np.inf == paired(one([3.0]), one([3.0], name="x")).ratio


def test_a_zero_reference_tolerates_nothing():
    """Zero against zero is equal; zero against anything is infinitely wrong."""
    assert 0 == paired(one([0.0]), one([0.0])).ratio
    assert np.inf == paired(one([0.0]), one([1e-9])).ratio


def test_runs_with_other_cases_are_in_the_same_units():
    """A case's error does not depend on which other cases the run has."""
    reference = {case: {"y": np.array([k + 1.0])} for k, case in enumerate("abc")}
    found = {case: {"y": arrays["y"] + 0.5} for case, arrays in reference.items()}
    few = {"b": found["b"]}

    whole, part = paired(reference, found), paired(reference, few)

    assert whole.error_sq[1] == part.error_sq[0]
    assert whole.reference_sq[1] == part.reference_sq[0]
    assert pytest.approx(0.25) == part.ratio
