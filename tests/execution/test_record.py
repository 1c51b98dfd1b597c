"""Recording: what changes is said before it is written, and leave is asked for."""

from __future__ import annotations

import dataclasses
import json
import subprocess

import numpy as np
import pytest

from harness.cli.main import main
from harness.errors import UsageError
from harness.execution import record as recording
from harness.execution.observer import Silent
from harness.execution.record import record, sources
from harness.execution.suite import load_suite
from harness.golden import guards
from harness.golden.store import Golden, compact, read_golden

SUITE = """\
[suite]
name = "mine"
model = "factory:model"
cases = "cases.jsonl"

[[target]]
backend = "torch"
scheme = "fp8_e4m3"
"""


def golden(shift=0.0):
    """What the reference gives; `shift` moves one case."""
    outputs = {case: {"y": compact(np.arange(4.0))} for case in ("a", "b")}
    outputs["b"] = {"y": compact(np.array([0.0, 1.0, 2.0, 3.0 + shift]))}
    return Golden(
        suite="mine", model_fingerprint="m", cases_fingerprint="c", outputs=outputs
    )


@pytest.fixture
def suite(tmp_path, monkeypatch):
    """A committed suite on a person's machine, whose reference gives `golden()`."""
    for name in guards._CI:
        monkeypatch.delenv(name, raising=False)
    folder = tmp_path / "work" / "mine"
    folder.mkdir(parents=True)
    (folder / "suite.toml").write_text(SUITE)
    (folder / "cases.jsonl").write_text('{"id": "a"}\n')
    (folder / "factory.py").write_text("model = None\n")
    git(folder.parent, "init", "-q")
    commit(folder.parent)
    give(monkeypatch, golden())
    return folder


def git(folder, *command):
    """Run git as somebody."""
    who = ["-c", "user.name=n", "-c", "user.email=e@x"]
    subprocess.run(["git", "-C", str(folder), *who, *command], check=True)


def commit(folder):
    """Everything, as one more commit."""
    git(folder, "add", "-A")
    git(folder, "commit", "-qm", "m")


def give(monkeypatch, found):
    """Let the reference run give this golden."""

    def run(_recorder, reason):
        return dataclasses.replace(found, reason=reason)

    monkeypatch.setattr(recording._Recorder, "_run", run)


class Witness(Silent):
    """Notes every message with the reason of the golden that lies there then."""

    def __init__(self, folder):
        self.folder = folder
        self.seen = []

    def on_message(self, text):
        """Read the golden at the moment of the message."""
        self.seen.append((text, read_golden(self.folder).reason))


def test_first_recording(suite):
    """Recorded, with its reason; again it is the same to the last bit."""
    assert "recorded" == record([suite], reason="first").suites[0].status
    assert "first" == read_golden(suite / "golden").reason
    assert "unchanged" == record([suite], renew=True).suites[0].status
    assert "first" == read_golden(suite / "golden").reason


def test_without_renew_nothing_is_written(suite, monkeypatch):
    """A sealed golden stays; what would change is said, and the exit code is 1."""
    record([suite], reason="first")
    give(monkeypatch, golden(shift=2.0))
    result = record([suite])

    assert ("refused", 1) == (result.suites[0].status, result.exit_code)
    assert result.suites[0].changes[0].startswith("b: y[3] relative_l2=")
    assert "first" == read_golden(suite / "golden").reason


def test_a_renewal_says_what_changes_before_it_writes(suite, monkeypatch):
    """By case and metric, while the old golden still lies there."""
    record([suite], reason="first")
    give(monkeypatch, golden(shift=2.0))
    witness = Witness(suite / "golden")
    result = record([suite], renew=True, reason="second", observer=witness)

    assert "renewed" == result.suites[0].status
    text, reason = witness.seen[0]
    assert text.startswith("mine: b: y[3] relative_l2=0.535 max_abs=2: 3 -> 5")
    assert "first" == reason
    assert "second" == read_golden(suite / "golden").reason


@pytest.mark.parametrize("renew", [False, True])
def test_ci_needs_leave(suite, monkeypatch, renew):
    """A CI machine neither records nor renews unless told."""
    if renew:
        record([suite])
        give(monkeypatch, golden(shift=2.0))
    monkeypatch.setenv("GITLAB_CI", "true")

    with pytest.raises(UsageError, match=r"GITLAB_CI is set.*--allow-ci"):
        record([suite], renew=renew)
    assert renew == (suite / "golden").exists()
    status = record([suite], renew=renew, allow_ci=True).suites[0].status
    assert ("renewed" if renew else "recorded") == status


@pytest.mark.parametrize("name", ["suite.toml", "cases.jsonl", "factory.py"])
def test_a_dirty_suite_needs_leave(suite, name):
    """The suite's own files must be committed, or leave given."""
    with (suite / name).open("a") as file:
        file.write("\n")

    with pytest.raises(UsageError, match=f"{name}.*--allow-dirty"):
        record([suite])
    assert "recorded" == record([suite], allow_dirty=True).suites[0].status


def test_a_dirty_model_elsewhere_needs_leave(suite):
    """So must the model's file or module, wherever it lies."""
    outside = suite.parent / "models.onnx"
    outside.write_text("one")
    text = SUITE.replace("factory:model", "../models.onnx")
    (suite / "suite.toml").write_text(text)
    commit(suite.parent)
    outside.write_text("two")

    with pytest.raises(UsageError, match=r"models.onnx.*--allow-dirty"):
        record([suite])


def test_what_a_golden_depends_on(suite):
    """The folder, and the module of a factory that lies elsewhere."""
    text = SUITE.replace("factory:model", "harness.models.zoo:vad")
    (suite / "suite.toml").write_text(text)
    found = sources(load_suite(suite))

    assert [suite.resolve(), "zoo.py"] == [found[0].resolve(), found[1].name]


def test_other_files_may_be_in_work(suite):
    """Budgets and files beside the suite do not change its outputs."""
    (suite / "budgets.toml").write_text("")
    (suite.parent / "elsewhere.txt").write_text("")

    assert "recorded" == record([suite]).suites[0].status


def test_the_command_line(suite, monkeypatch, capsys):
    """Its options give the leave; `--json` lists the changes."""
    monkeypatch.setenv("CI", "1")
    assert 2 == main(["record", str(suite)])
    assert "--allow-ci" in capsys.readouterr().err
    assert 0 == main(["record", str(suite), "--allow-ci"])
    give(monkeypatch, golden(shift=2.0))
    assert 1 == main(["record", str(suite), "--allow-ci"])
    assert "refused" in capsys.readouterr().out
    (suite / "factory.py").write_text("model = 1\n")
    assert 2 == main(["record", str(suite), "--renew", "--allow-ci"])
    renewal = ["record", str(suite), "--renew", "--allow-ci", "--allow-dirty"]
    capsys.readouterr()
    assert 0 == main([*renewal, "--json"])
    (entry,) = json.loads(capsys.readouterr().out)["suites"]

    assert "renewed" == entry["status"]
    assert "b: y[3]" in entry["changes"][0]
