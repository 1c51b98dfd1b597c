"""`quantharness selftest`: wrong input, and the catalogue."""

from __future__ import annotations

import pytest

from harness.cli.main import main
from harness.defects import DEFECTS


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nowhere"], "nowhere: no such file or folder"),
        (["suites/vad", "--defect", "scale_mising"], "did you mean 'scale_missing'"),
        (["suites/vad", "--scheme", "nvfp5"], "did you mean"),
        (["suites/vad", "--backend", "tensorrt"], "no suite here has such a target"),
        (["suites/vad", "--plugin", "nowhere.py"], "nowhere.py"),
    ],
)
def test_wrong_usage_is_exit_2_with_what_to_do(arguments, message, capsys):
    """One line, nothing planted."""
    assert main(["selftest", *arguments]) == 2
    assert message in capsys.readouterr().err


def test_the_catalogue_is_listed(capsys):
    """Every defect with its place and severity."""
    assert main(["selftest", "--list"]) == 0

    out = capsys.readouterr().out
    assert all(name in out for name in DEFECTS)


@pytest.mark.parametrize(("counted", "code"), [(0, 2), (3, 0)])
def test_nothing_planted_is_exit_2(monkeypatch, capsys, counted, code):
    """Nothing was missed, for nothing was there."""
    from harness.execution.selftest import api
    from harness.execution.selftest.summary import summary

    found = summary([], [])
    found["caught"] |= {"count": counted, "of": counted, "share": 1.0}
    monkeypatch.setattr(api, "selftest", lambda *_, **__: found)

    assert main(["selftest", "suites/vad"]) == code
    assert ("nothing was tested" in capsys.readouterr().out) is (code == 2)
