"""docs/selftest-matrix.md says what its trials say."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import generate_matrix as page
import pytest

from harness.defects import DEFECTS, Planting
from harness.execution.selftest.journal import JOURNAL, Journal
from harness.execution.selftest.trial import Trial

ROOT = Path(__file__).parents[2]

CAUGHT = Trial(
    suite="toy",
    target="torch/int8",
    planting=Planting(defect="scale_missing", operator="fc", strength=1.0),
    severity="catastrophic",
    verdict="defect",
    check="explained",
    fired=True,
    operator="fc",
    cause="scale missing",
    confidence=0.99,
    moved=0.512,
    cases=12,
)


def changed(trial, **changes):
    """A trial with another defect or strength, or another end."""
    planting = {
        name: changes.pop(name) for name in ("defect", "strength") if name in changes
    }
    moved = dataclasses.replace(trial.planting, **planting)
    return dataclasses.replace(trial, planting=moved, **changes)


@pytest.fixture
def kept(tmp_path, monkeypatch):
    """What is kept of six trials, collected as from a self-test's folder."""
    trials = [
        CAUGHT,
        changed(CAUGHT, strength=0.02, level="low", verdict="pass", operator=""),
        changed(CAUGHT, defect="bias_missing", cause="unknown", confidence=0.0),
        changed(CAUGHT, defect="wrong_for_long_inputs", verdict="", fired=False),
        changed(CAUGHT, defect="nibbles_swapped", verdict="", unfit="no nibbles"),
        changed(CAUGHT, defect="bias_twice", verdict="pass", tolerated=True),
        Trial(suite="toy", target="torch/int8", planting=None, verdict="pass"),
    ]
    journal = Journal(tmp_path / JOURNAL)
    for number, trial in enumerate(trials):
        journal.add(str(number), trial)
    monkeypatch.setattr(page, "SOURCE", tmp_path / "kept.json")
    monkeypatch.setattr(page, "PAGE", tmp_path / "page.md")
    assert page.main([str(tmp_path), "--command", "quantharness selftest toy"]) == 0
    return json.loads(page.SOURCE.read_text())


def test_what_is_kept_gives_the_trials_again(kept):
    """But for what fits nothing, which is counted."""
    first, *_, last = page.read(kept)

    assert dataclasses.replace(CAUGHT, moved=0.51) == first
    assert last.planting is None
    assert len(kept["trials"]) == 6
    assert kept["unfit"] == 1


def test_a_planting_that_was_tried_again_counts_once(kept, tmp_path):
    """As the last of its trials ended; clean runs are as many as they were."""
    again = tmp_path / "again"
    again.mkdir()
    journal = Journal(again / JOURNAL)
    journal.add("0", changed(CAUGHT, verdict="pass", operator=""))
    journal.add("1", Trial(suite="toy", target="torch/int8", planting=None))
    page.collect([tmp_path, again], [], {})
    trials = page.read(json.loads(page.SOURCE.read_text()))

    assert len(trials) == len(kept["trials"]) + 1
    assert [t.verdict for t in trials if t.planting == CAUGHT.planting] == ["pass"]


def test_later_trials_stand_beside_what_was_kept(kept, tmp_path):
    """With `--add`; a planting that was tried again counts as it ended now."""
    again = tmp_path / "again"
    again.mkdir()
    journal = Journal(again / JOURNAL)
    journal.add("0", changed(CAUGHT, verdict="pass", operator=""))
    journal.add("1", Trial(suite="toy", target="torch/int8", planting=None))
    command = "quantharness selftest toy --sample"

    assert page.main(["--add", str(again), "--command", command]) == 0
    now = json.loads(page.SOURCE.read_text())
    trials = page.read(now)

    assert len(trials) == len(kept["trials"]) + 1
    assert [t.verdict for t in trials if t.planting == CAUGHT.planting] == ["pass"]
    assert now["commands"] == [*kept["commands"], command]
    assert now["unfit"] == kept["unfit"]


def test_the_page_shows_what_was_missed_and_what_never_fired(kept):
    """A miss is bold and has a line of its own; so has a cause that was not named."""
    text = page.PAGE.read_text()

    assert "$ quantharness selftest toy\n" in text
    assert "| `scale_missing` | **E 1/2** |" in text
    assert "| `bias_missing` | E |" in text
    assert "| `wrong_for_long_inputs` | x |" in text
    assert "nibbles_swapped" not in text
    assert "| toy/torch/int8 | `scale_missing` | fc | low | 0.51 | pass |" in text
    assert "| toy/torch/int8 | `bias_missing` | fc | catalogue | right |" in text
    assert "| toy/torch/int8 | `bias_twice` | fc | 0.51 | pass |" in text
    assert "| `bias_twice` | x |" in text
    assert "**Caught**: 2 of 3" in text


def test_another_page_is_told(kept, capsys):
    """`--check` ends with 1 once the page is not what the trials give."""
    assert page.main(["--check"]) == 0
    page.PAGE.write_text(page.PAGE.read_text() + "and more\n")

    assert page.main(["--check"]) == 1
    assert "stale" in capsys.readouterr().out


def test_the_kept_page_is_what_its_trials_give():
    """And names no defect that the catalogue has not."""
    trials = page.read(json.loads(page.SOURCE.read_text()))

    assert page.main(["--check"]) == 0
    assert {t.planting.defect for t in trials if t.planting} <= set(DEFECTS)
    assert len([t for t in trials if t.planting is None]) >= 200
