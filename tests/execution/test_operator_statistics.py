"""Statistics of an operator's input, outlier channels and right tokens included."""

from __future__ import annotations

import json

import numpy as np
import pytest

from harness.errors import CasesError
from harness.execution.operator_statistics import OperatorStatistics
from harness.execution.reference_run import right_tokens
from harness.models.types import Case, Operator

RNG = np.random.default_rng(2)


def statistics(x, kind="linear", calls=2):
    """Of an input that is seen in several calls."""
    weight = np.ones((4, 8) if kind == "linear" else (4, 8, 3), np.float32)
    found = OperatorStatistics(Operator("layer", kind, weight))
    for part in np.array_split(x, calls):
        found.add(part, -3 * part)
    return found.as_dict()


@pytest.mark.parametrize(("kind", "axis"), [("linear", -1), ("conv", 1)])
def test_channels_that_stand_out(kind, axis):
    """Named by their number, the largest first, over all calls."""
    x = RNG.uniform(-1, 1, (6, 8, 8)).astype(np.float32)
    view = np.moveaxis(x, axis, 0)
    view[5, 0, 0] = -40.0
    view[2, 5, 1] = 90.0
    found = statistics(x, kind)

    assert [[2, 90.0], [5, 40.0]] == found["outlier_channels"]
    assert (8, 2) == (found["channels"], found["outliers"])
    assert 85 < found["channel_ratio"] < 100


def test_the_range_of_results_is_kept():
    """Over all calls, of either sign."""
    x = np.array([[1.0] * 8, [-5.0] * 8], np.float32)

    assert 15.0 == statistics(x)["output_amax"]


def test_an_even_input_has_no_outliers():
    """Nor has a zero one, nor none at all."""
    assert [] == statistics(RNG.uniform(-1, 1, (40, 8)))["outlier_channels"]
    assert [] == statistics(np.zeros((4, 8)))["outlier_channels"]
    assert 0 == statistics(np.zeros((0, 8)), calls=1)["outliers"]


def test_the_definitions():
    """amax, mean, rms, norm and quantiles over all calls; plain JSON."""
    x = RNG.standard_normal((50, 8))
    found = statistics(x, calls=1)

    assert json.loads(json.dumps(found)) == found
    assert np.abs(x).max() == found["amax"]
    assert pytest.approx(x.mean()) == found["mean"]
    assert pytest.approx(np.linalg.norm(x)) == found["norm"]
    assert pytest.approx(np.sqrt(np.square(x).mean())) == found["rms"]
    assert pytest.approx(np.quantile(np.abs(x), 0.99)) == found["abs_p99"]


def case(labels, **inputs):
    """A case that names its right tokens."""
    return Case("a", inputs, {} if labels is None else {"labels": labels})


def test_right_tokens():
    """Given, or the next of the input; the last position has none."""
    ids = np.array([[5, 6, 7]])

    assert [[6, 7, -1]] == right_tokens([case("next", input_ids=ids)])["a"].tolist()
    assert [[1, -1]] == right_tokens([case([1, -1], x=ids)])["a"].tolist()
    assert {} == right_tokens([case(None, input_ids=ids)])
    for wrong in (case("next", x=ids), case("last", input_ids=ids), case([0.5])):
        with pytest.raises(CasesError, match=r"expected\.labels"):
            right_tokens([wrong])
