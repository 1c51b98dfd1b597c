"""A history only grows, and says what it cannot read."""

import sys
from pathlib import Path

import pytest

from harness.errors import UsageError
from harness.history import append, latest_run_folder, load

sys.path.insert(0, str(Path(__file__).parents[1] / "reports"))
from make import judgement, report


def test_appended_runs_come_back_in_order(tmp_path: Path):
    """Oldest first, each with its measurements."""
    append(report(judgement(), run="b", started="2026-11-02"), tmp_path)
    append(report(judgement(), run="a", started="2026-11-01"), tmp_path)
    history = load(tmp_path)

    assert ["a", "b"] == [entry.run for entry in history.reports]
    assert [("a", 0.1), ("b", 0.1)] == history.series("minilm/torch/fp8", "drift")


def test_a_run_is_never_written_over(tmp_path: Path):
    """The same run twice is an error; the file stays as it was."""
    path = append(report(judgement()), tmp_path)
    before = path.read_bytes()

    with pytest.raises(UsageError, match="already in the history"):
        append(report(judgement("other")), tmp_path)

    assert before == path.read_bytes()


@pytest.mark.parametrize(
    "content", ["{", "[]", '{"schema": 99}', '{"schema": 1}', "\x00"]
)
def test_a_damaged_file_is_named_and_left_out(tmp_path: Path, content):
    """The others are still read; the damaged one is said."""
    append(report(judgement()), tmp_path)
    (tmp_path / "broken.json").write_text(content)
    history = load(tmp_path)

    assert 1 == len(history.reports)
    assert "broken.json" in history.problems[0]


def test_latest_needs_a_run_that_passed(tmp_path: Path):
    """A history of nothing has no latest run; neither has a missing folder."""
    with pytest.raises(UsageError, match="no run that passed"):
        latest_run_folder(tmp_path)
    with pytest.raises(UsageError, match="no history there"):
        load(tmp_path / "none")
