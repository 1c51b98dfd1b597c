"""What sessions of ONNX graphs make of a call."""

import numpy as np
import pytest

from harness.backends.onnx_call import feeds_of, shown, tensors_of
from harness.errors import BackendError

OBSERVED = {"first": ("x", "h"), "second": ("h", "y")}


def test_inputs_are_those_of_the_graph_in_one_piece():
    """More may be given; a view is copied."""
    x = np.arange(6.0).reshape(2, 3).T

    feeds = feeds_of("engine", ["x"], {"x": x, "other": x}, closed=False)

    assert ["x"] == list(feeds)
    assert feeds["x"].flags.c_contiguous
    assert np.array_equal(x, feeds["x"])


@pytest.mark.parametrize(
    ("inputs", "closed", "told"),
    [({}, False, r"engine: .* missing=\['x'\]"), ({"x": np.ones(1)}, True, "=True")],
)
def test_a_call_that_cannot_be_made_says_why(inputs, closed, told):
    """An input is missing, or the session was closed."""
    with pytest.raises(BackendError, match=told):
        feeds_of("engine", ["x"], inputs, closed=closed)


def test_an_operator_shows_its_input_and_its_output():
    """The model's own input comes from the call: no engine gives it back."""
    feeds, values = {"x": np.zeros(1)}, {"h": np.ones(1), "y": np.full(1, 2.0)}

    found = shown(OBSERVED, ["first", "second"], feeds, values)

    assert {"first/input": 0, "first": 1, "second/input": 1, "second": 2} == found
    assert {"h"} == tensors_of(OBSERVED, ["first"], feeds)
    assert {"h", "y"} == tensors_of(OBSERVED, ["first", "second"], feeds)
    assert set() == tensors_of(OBSERVED, [], feeds)
