"""docs/language-models-measured.md says what its runs say."""

from __future__ import annotations

import json
import math

import generate_language_models as page
import pytest

from harness.execution.run_folder import write_report
from harness.judge.types import Judgement, Measurement, Report, Verdict


def measured(name, value, low=None, high=None, **more):
    """One measurement; without bounds it is known exactly."""
    low, high = (value if bound is None else bound for bound in (low, high))
    return Measurement(name=name, value=value, low=low, high=high, **more)


@pytest.fixture
def written(tmp_path, monkeypatch):
    """The page of a run of two targets."""
    monkeypatch.setattr(page, "PAGE", tmp_path / "page.md")
    monkeypatch.setattr(page, "SOURCE", tmp_path / "kept.json")
    found = (
        measured("unexplained", 1.2e-5, budget=1e-4, cases=210),
        measured("logits.kl", 0.0434, 0.0406, 0.0473),
        measured("logits.kl.max", 0.753, 0.753, math.inf),
        # 27 lost and 5 gained of 161.
        measured("behaviour.answers.loss", 22 / 161, -0.1, 0.3, cases=161),
        measured("behaviour.answers.flips", 32 / 161, 0.1, 0.33, cases=161),
        measured("behaviour.answers.loss[json]", 0.5, cases=4),
    )
    targets = (
        Judgement(
            suite="toy",
            backend="torch",
            scheme="fp8",
            verdict=Verdict.BEHAVIOUR,
            reason="json | lost",
            measurements={entry.name: entry for entry in found},
            timings={"run": 20.0, "check": 1.6},
        ),
        Judgement(
            suite="toy",
            backend="odd",
            scheme="int8",
            verdict=Verdict.ERROR,
            reason="killed",
            measurements={},
            timings={},
        ),
    )
    write_report(Report(run="r", environment={}, targets=targets), tmp_path)
    assert page.main([str(tmp_path)]) == 0
    return page.PAGE


def test_a_target_is_told_by_its_numbers(written):
    """With intervals; why it did not pass; what was not measured is a dash."""
    text = written.read_text(encoding="utf-8")

    assert "| `torch fp8` | behaviour | 1.2e-05 (0.0001), worst of 210 |" in text
    assert "| 0.0434 [0.0406, 0.0473] |" in text
    assert "| 0.753 [0.753, inf] |" in text
    assert "| `odd int8` | error | - | - |" in text
    assert r"| `torch fp8` | json \| lost |" in text


def test_answers_are_counted(written):
    """The shares give the counts back; slices are no behaviours."""
    text = written.read_text(encoding="utf-8")

    assert "| `torch fp8` | 27 | 5 | 161 | 3.8e-05 |" in text
    assert "| answers | 161 | +0.14; 0.20 [0.1, 0.33] |" in text
    assert "answers[json]" not in text
    assert "answers.loss[json]" not in text


def test_a_page_that_says_something_else_is_stale(written, capsys):
    """Edited by hand, or its runs were kept anew."""
    assert page.main(["--check"]) == 0
    written.write_text("# Other\n", encoding="utf-8")

    assert page.main(["--check"]) == 1
    assert "stale" in capsys.readouterr().out


def test_the_page_that_is_kept_is_the_one_that_is_written():
    """Every target of the suite stands in it."""
    kept = json.loads(page.SOURCE.read_text(encoding="utf-8"))

    assert "torch fp8_e4m3" in kept
    assert page.main(["--check"]) == 0
