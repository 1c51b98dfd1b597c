"""A suite whose targets are checkpoints that vendors wrote, whole."""

from __future__ import annotations

import json

import numpy as np
import pytest

from harness.errors import ConfigError
from harness.execution.api import record, run
from harness.execution.suite import load_suite
from tests.models.checkpoint.folders import DOWN, KEPT, copied, edit_tensor

pytest.importorskip("transformers")
NAMES = ("ct-fp8", "ct-fp8-block", "ct-int4-asym", "ct-nvfp4", "mo-nvfp4", "qk-mxfp4")
SUITE = """\
[suite]
name = "tiny"
model = "tests.models.checkpoint.tiny:model"
cases = "cases.jsonl"
reference = { backend = "torch", precision = "fp32" }
batch = 4
"""
TARGET = """
[scheme."{name}"]
checkpoint = "{name}"

[[target]]
backend = "torch"
scheme = "{name}"
"""


@pytest.fixture
def suite(tmp_path):
    """A folder with the checkpoints beside it."""
    folder = tmp_path / "suites" / "tiny"
    folder.mkdir(parents=True)
    rng = np.random.default_rng(0)
    with (folder / "cases.jsonl").open("w") as file:
        for index in range(24):
            ids = rng.integers(0, 16, 6 + index % 3).tolist()
            record_ = {"id": f"c{index:02}", "inputs": {"input_ids": [ids]}}
            file.write(json.dumps(record_) + "\n")
    for name in NAMES:
        copied(name, folder)
    targets = "".join(TARGET.format(name=name) for name in NAMES)
    (folder / "suite.toml").write_text(SUITE + targets)
    return folder


def quartered(scales):
    """Every second block's scale is a quarter of what it was."""
    scales.view(np.uint8)[:, ::2] -= 16
    return scales


@pytest.mark.quant_slow
def test_what_is_stored_is_what_is_run_and_judged(suite, monkeypatch):
    """Every vendor's codes run as they are; one changed code is another artifact."""
    monkeypatch.chdir(suite.parents[1])
    record([suite], allow_ci=True)

    found = run([suite])

    verdicts = {target.scheme: target for target in found.targets}
    assert {str(target.verdict) for target in found.targets} == {"pass"}, [
        f"{target.name}: {target.reason}" for target in found.targets
    ]
    assert "7 operators" in verdicts["ct-nvfp4"].checks[0].reason

    edit_tensor(suite / "ct-fp8", f"{DOWN}.weight", np.negative)
    edit_tensor(suite / "ct-nvfp4", f"{DOWN}.weight_scale", quartered)
    negated, changed = run([suite], schemes=["ct-fp8", "ct-nvfp4"]).targets
    assert str(negated.verdict) == "defect"
    assert "distance of the stored weight from the model's=2" in negated.reason
    assert str(changed.verdict) == "defect"
    assert f"stored weight of inner.{DOWN}: error of its outputs" in changed.reason


@pytest.mark.parametrize("given", ['"nowhere"', "3"])
def test_a_checkpoint_that_is_not_there_is_told_by_its_line(suite, given):
    """The file, the line, what was found, what to write."""
    text = (suite / "suite.toml").read_text().replace('"ct-fp8"', given, 2)
    text = text.replace(f"[scheme.{given}]", '[scheme."ct-fp8"]')
    (suite / "suite.toml").write_text(text)

    with pytest.raises(ConfigError, match=r"suite.toml:\d+: .*should be a folder"):
        load_suite(suite / "suite.toml", None)


def test_nothing_else_is_said_of_a_checkpoint(suite):
    """Weights are as they are stored."""
    text = (suite / "suite.toml").read_text()
    text = text.replace(
        'checkpoint = "mo-nvfp4"', 'checkpoint = "mo-nvfp4"\nweights = 1'
    )
    (suite / "suite.toml").write_text(text)

    with pytest.raises(ConfigError, match="weights"):
        load_suite(suite / "suite.toml", None)


def test_kept_names_exist():
    """The list above is of folders that are kept."""
    assert all((KEPT / name / "decoded.npz").is_file() for name in NAMES)
