"""Goldens that nothing is compared with end a run."""

from __future__ import annotations

import numpy as np
import pytest

from harness.errors import UsageError
from harness.execution.api import run
from harness.execution.golden_inventory import check_unused, other_cases
from harness.execution.suite import load_suite
from harness.golden.store import Golden, compact, write_golden

SUITE = """\
[suite]
name = "{name}"
model = "model.onnx"
cases = "cases.jsonl"

[[target]]
backend = "onnxruntime"
scheme = "fp8_e4m3"
"""


def golden(name, cases=("a", "b")):
    """A small golden of a suite."""
    return Golden(
        suite=name,
        model_fingerprint="m",
        cases_fingerprint="c",
        outputs={case: {"y": compact(np.ones(2))} for case in cases},
    )


def make_suite(root, name):
    """`suites/NAME` with its files."""
    folder = root / "suites" / name
    folder.mkdir(parents=True)
    (folder / "model.onnx").write_bytes(b"no model")
    (folder / "cases.jsonl").write_text("")
    (folder / "suite.toml").write_text(SUITE.format(name=name))
    return folder


@pytest.fixture
def two(tmp_path):
    """Two suites with their goldens beside them."""
    for name in ("one", "two"):
        make_suite(tmp_path, name)
        write_golden(golden(name), tmp_path / "golden" / name)
    return tmp_path


def test_a_neighbours_golden_is_used(two):
    """A run of one suite does not call the other's golden unused."""
    check_unused([load_suite(two / "suites/one")])


def test_an_unused_golden_ends_the_run(two):
    """Exit 2: its name, and what to do."""
    write_golden(golden("old"), two / "golden/old")

    with pytest.raises(UsageError, match=r"no suite uses .*golden/old: delete it"):
        run([two / "suites/one"], out=two / "out")
    assert not (two / "out").exists()


def test_a_missing_golden_is_for_the_verdict(two):
    """A suite without a golden is no wrong usage: its targets are stale."""
    make_suite(two, "fresh")
    check_unused([load_suite(two / "suites/fresh")])
    report = run([two / "suites/fresh"], out=two / "out")

    assert ["stale"] == [str(target.verdict) for target in report.targets]
    assert 1 == report.exit_code


def test_a_neighbour_that_cannot_be_read(two):
    """Its golden is not known, so none is called unused."""
    write_golden(golden("old"), two / "golden/old")
    (two / "suites/two/suite.toml").write_text("not toml")
    check_unused([load_suite(two / "suites/one")])


def test_cases_on_one_side():
    """Cases that went and cases that came are named; the same ids are not."""
    assert "gone: b, new: c, d" == other_cases(golden("one"), ["a", "c", "d"])
    assert "" == other_cases(golden("one"), ["b", "a"])
