"""Behaviours read the end of the pipeline as a user would."""

import numpy as np
import pytest

from harness.behaviours.kinds import KINDS
from harness.errors import ConfigError
from harness.models.types import Case


def cases(**expected):
    """Cases by id with what they expect."""
    return [Case(id=name, inputs={}, expected=e) for name, e in expected.items()]


def test_nearest_neighbour_right_and_wrong():
    """The most similar other case is the answer; a zero vector is nobody's."""
    table = {"a": [1.0, 0], "b": [2.0, 0.1], "c": [0.0, 0.0], "d": [0, 1.0]}
    outputs = {name: {"e": np.array([value])} for name, value in table.items()}
    answers = KINDS["nearest_neighbour"].evaluate(
        cases(a={"nearest": "b"}, b={"nearest": "d"}, c={}, d={}),
        outputs,
        {"output": "e"},
        {},
    )

    assert answers["a"].right
    assert ("a", False) == (answers["b"].text, answers["b"].right)
    assert "c" not in answers


def test_nan_is_never_right():
    """An embedding of NaN finds nothing; a score of NaN is not a yes."""
    nan = {"e": np.full((1, 2), np.nan)}
    outputs = {"a": nan, "b": nan}
    score = KINDS["threshold"].evaluate(
        cases(a={"speech": False}), outputs, {"output": "e", "label": "speech"}, {}
    )

    assert not score["a"].right


@pytest.mark.parametrize(
    ("classes", "text"),
    [([1, 1, 0, 1, 2], "aab"), ([0, 0], ""), ([2, 2, 2], "b"), ([1, 2, 2, 0], "ab")],
)
def test_ctc_merges_repeats_and_drops_blanks(classes, text):
    """A repeat counts twice only with a blank between."""
    frames = np.eye(3)[None, classes]
    answers = KINDS["ctc_text"].evaluate(
        cases(x={"text": text}),
        {"x": {"y": frames}},
        {"output": "y"},
        {"characters": ["", "a", "b"]},
    )

    assert (text, True) == (answers["x"].text, answers["x"].right)


def test_threshold_uses_the_quantile_over_time():
    """One loud frame is speech at the maximum, not at the median."""
    outputs = {"x": {"p": np.array([0.1, 0.1, 0.9])}}
    options = {"output": "p", "label": "speech"}
    evaluate = KINDS["threshold"].evaluate

    loud = evaluate(cases(x={"speech": True}), outputs, options, {})
    median = evaluate(
        cases(x={"speech": True}), outputs, {**options, "quantile": 0.5}, {}
    )

    assert loud["x"].right
    assert not median["x"].right


def test_unknown_output_says_what_there_is():
    """A typo in `output` is a configuration error that lists the outputs."""
    with pytest.raises(ConfigError, match=r"output='z'.*\['y'\]"):
        KINDS["argmax"].evaluate(
            cases(x={"label": 1}), {"x": {"y": np.ones(2)}}, {"output": "z"}, {}
        )
