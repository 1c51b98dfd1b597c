"""What a renewal would change is said by case and metric."""

from __future__ import annotations

import dataclasses

import numpy as np

from harness.golden.diff import diff
from harness.golden.store import compact


def replaced(golden, case, output, array, **options):
    """The golden with one output replaced."""
    outputs = {c: dict(entries) for c, entries in golden.outputs.items()}
    outputs[case][output] = compact(array, **options)
    return dataclasses.replace(golden, outputs=outputs)


def test_nothing_changed(make_golden):
    """Dates, reasons, machines and noise do not count as change."""
    other = make_golden(
        date="2027-01-01",
        reason="again",
        environment={"python": "3.12"},
        noise_floor={"repeat": 1e-9},
    )
    assert diff(make_golden(), other) == []


def test_an_output_moved(make_golden):
    """How far, where most, from which value to which."""
    golden = make_golden()
    array = np.array(golden.outputs["zeta"]["embedding"].array)
    array[0, 3] += np.float16(2)

    (change,) = diff(golden, replaced(golden, "zeta", "embedding", array))

    assert (change.case, change.what) == ("zeta", "embedding[0, 3]")
    assert 0 < change.size < 10
    assert "relative_l2=" in str(change)
    assert "max_abs=2" in str(change)


def test_largest_change_first(make_golden):
    """The case that moved most is told first."""
    golden = changed = make_golden()
    for case, by in (("zeta", 1), ("ümlaut", 5)):
        array = np.array(golden.outputs[case]["embedding"].array) + np.float16(by)
        changed = replaced(changed, case, "embedding", array)
    assert [change.case for change in diff(golden, changed)] == ["ümlaut", "zeta"]


def test_signed_zero_and_dtype_count(make_golden):
    """Bits count, and so does another dtype or shape."""
    golden = make_golden(outputs={"a": {"y": compact(np.zeros(2, np.float32))}})
    (zero,) = diff(golden, replaced(golden, "a", "y", -np.zeros(2, np.float32)))
    (dtype,) = diff(golden, replaced(golden, "a", "y", np.zeros(2)))
    assert "max_abs=0" in str(zero)
    assert str(dtype) == "a: y: full float32[2] -> full float64[2]"


def test_cases_models_answers_and_ranges(make_golden):
    """Everything else that targets are judged by is told too, with circumstances."""
    old = make_golden()
    new = make_golden(
        model_fingerprint="content-v1:other",
        outputs={k: v for k, v in old.outputs.items() if k != "zeta"},
        behaviours={"argmax": {"zeta": {"answer": "e", "right": False}}},
        operators={"layer.0": {"amax": 5.0}},
        environment={"python": "3.12"},
    )
    told = "\n".join(map(str, diff(old, new)))
    assert "model_fingerprint: content-v1:m -> content-v1:other" in told
    assert "zeta: case: there -> gone" in told
    assert "zeta: argmax answer: 'é' (right) -> 'e' (wrong)" in told
    assert "layer.0 amax: 2.5 -> 5" in told
    assert "environment.python: 3.11 -> 3.12" in told


def test_outlier_channels(make_golden):
    """Channels that begin to stand out are told; a golden without them says so."""
    old = make_golden()
    table = {"layer.0": {"amax": 2.5, "outlier_channels": [[3, 2.5]]}}
    new = dataclasses.replace(old, operators=table)
    other = {"layer.0": {"amax": 2.5, "outlier_channels": [[3, 2.5], [1, 2.0]]}}
    plain = dataclasses.replace(old, operators={"layer.0": {"amax": 2.5}})

    told = [str(c) for c in diff(new, dataclasses.replace(old, operators=other))]
    assert "layer.0 outlier channels: [3] -> [1, 3]" in told
    assert "layer.0 outlier channels: not kept -> [3]" in map(str, diff(plain, new))
    assert [] == diff(new, new)
