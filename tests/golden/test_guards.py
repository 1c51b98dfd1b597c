"""Goldens are not written on CI machines or from uncommitted files unless told."""

from __future__ import annotations

import subprocess

import pytest

from harness.errors import UsageError
from harness.golden import guards


@pytest.fixture
def suite(tmp_path, monkeypatch):
    """A committed suite, on a machine that is no CI."""
    for name in guards._CI:
        monkeypatch.delenv(name, raising=False)
    folder = tmp_path / "suite"
    folder.mkdir()
    (folder / "suite.toml").write_text("a")
    for command in (
        ["init", "-q"],
        ["add", "."],
        ["-c", "user.name=n", "-c", "user.email=e@x", "commit", "-qm", "m"],
    ):
        subprocess.run(["git", "-C", str(tmp_path), *command], check=True)
    return folder


def check(folder, **allowed):
    """With nothing allowed but what is named."""
    guards.check_may_write(
        folder, **{"allow_ci": False, "allow_dirty": False, **allowed}
    )


def test_clean(suite):
    """A clean tree on a person's machine may record."""
    check(suite)


@pytest.mark.parametrize("value", ["1", "true", "yes"])
def test_ci(suite, monkeypatch, value):
    """A CI machine may not, unless told."""
    monkeypatch.setenv("GITHUB_ACTIONS", value)
    with pytest.raises(UsageError, match=r"GITHUB_ACTIONS is set.*--allow-ci"):
        check(suite)
    check(suite, allow_ci=True)


@pytest.mark.parametrize("value", ["0", "false", "", "No"])
def test_ci_that_is_off(suite, monkeypatch, value):
    """A variable that says no is no CI."""
    monkeypatch.setenv("CI", value)
    check(suite)


@pytest.mark.parametrize("name", ["suite.toml", "new case.jsonl"])
def test_dirty(suite, name):
    """A changed or an unknown file of the suite is named; leave can be given."""
    (suite / name).write_text("b")
    with pytest.raises(UsageError, match=f"{name}.*--allow-dirty"):
        check(suite)
    with pytest.raises(UsageError):
        check([suite.parent / "absent", suite])
    check(suite, allow_dirty=True)


def test_what_outputs_do_not_depend_on(suite):
    """Budgets and other suites may be in work."""
    (suite / "budgets.toml").write_text("b")
    (suite.parent / "elsewhere").write_text("b")
    check(suite)


def test_a_new_suite(suite):
    """A suite that git does not know yet has no earlier golden."""
    folder = suite.parent / "fresh"
    folder.mkdir()
    (folder / "suite.toml").write_text("b")
    check(folder)


def test_outside_of_git(tmp_path, monkeypatch):
    """Without git there is nothing to ask."""
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path))
    assert guards.dirty_files(tmp_path) == []
