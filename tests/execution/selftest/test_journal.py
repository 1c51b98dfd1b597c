"""What an interrupted self-test keeps, and what it takes up again."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from harness.defects import Planting, Trigger
from harness.errors import UsageError
from harness.execution.selftest.engine import SelfTest
from harness.execution.selftest.journal import Journal, key_of
from harness.execution.selftest.stage import Item
from harness.execution.selftest.trial import Threshold, Trial


class Stage:
    """A stage that counts what is tried, and can be cut off."""

    key = ("toy", "torch")
    plugged = ""

    def __init__(self, folder, stop_at=99):
        self.suite = SimpleNamespace(name="toy", path=folder / "suite.toml")
        self.golden = SimpleNamespace(model_fingerprint="m", cases_fingerprint="c")
        self.tried = []
        self.stop_at = stop_at

    def worker(self, *_):
        from contextlib import nullcontext

        return nullcontext()

    def trial(self, item, *_, **__):
        if len(self.tried) == self.stop_at:
            raise KeyboardInterrupt
        self.tried.append(item)
        return Trial(
            suite="toy",
            target=item.target.name,
            planting=item.planting,
            level=item.level,
            verdict="defect" if item.planting else "pass",
            fired=True,
        )


def items(stage, count=4):
    """A clean run and some plantings."""
    target = SimpleNamespace(name="torch/int8")
    clean = Item(stage=stage, target=target, planting=None)
    planted = [
        Item(
            stage=stage,
            target=target,
            planting=Planting(defect="scale_ratio", operator=f"fc{n}", strength=0.1),
            level="catalogue",
        )
        for n in range(count)
    ]
    return [clean, *planted]


def run(folder, stage, plan, **options):
    """A self-test with its journal in the folder."""
    test = SelfTest(folder=folder, journal=Journal(folder / "trials.jsonl"))
    return test.run(plan, **options)


def test_what_was_interrupted_goes_on_where_it_stopped(tmp_path):
    """Nothing is tried twice, nothing lost, and the result is that of one run."""
    cut = Stage(tmp_path, stop_at=3)
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path, cut, items(cut))
    rest = Stage(tmp_path)

    trials = run(tmp_path, rest, items(rest))

    assert len(cut.tried) == 3
    assert len(rest.tried) == 2
    assert [t.planting and t.planting.operator for t in trials] == [
        None,
        "fc0",
        "fc1",
        "fc2",
        "fc3",
    ]


def test_trials_come_back_as_they_were_written(tmp_path):
    """Planting, trigger, numbers and thresholds."""
    path = tmp_path / "trials.jsonl"
    planting = Planting(defect="zeros", strength=0.5, trigger=Trigger(position=16))
    trial = Trial(suite="s", target="t", planting=planting, moved=0.25, fired=None)
    threshold = Threshold(
        suite="s", target="t", defect="d", parameter="p", caught=0.1, missed=None
    )
    journal = Journal(path)
    journal.add("a", trial)
    journal.add("a", threshold)

    again = Journal(path)

    assert again.trials == {"a": trial}
    assert again.thresholds == {"a": threshold}


def test_a_line_that_was_cut_short_is_cut_off(tmp_path):
    """The trial before it counts, and the next is written on a line of its own."""
    path = tmp_path / "trials.jsonl"
    Journal(path).add("a", Trial(suite="s", target="t", planting=None))
    with path.open("a") as file:
        file.write('{"key": "b", "tri')

    journal = Journal(path)
    journal.add("c", Trial(suite="s", target="t", planting=None))

    assert set(journal.trials) == {"a", "c"}
    assert set(Journal(path).trials) == {"a", "c"}


def test_what_was_measured_under_other_settings_is_tried_again(tmp_path):
    """Budgets that changed since."""
    first, second = Stage(tmp_path), Stage(tmp_path)
    run(tmp_path, first, items(first))
    (tmp_path / "budgets.toml").write_text("x = 1\n")

    run(tmp_path, second, items(second))

    assert len(second.tried) == len(first.tried) == 5


def test_what_another_plugin_planted_is_tried_again(tmp_path):
    """Its defects may be others under the same names."""
    first, second = Stage(tmp_path), Stage(tmp_path)
    run(tmp_path, first, items(first))
    second.plugged = "0123"

    run(tmp_path, second, items(second))

    assert len(second.tried) == len(first.tried) == 5


def test_clean_runs_are_told_apart(tmp_path):
    """Twenty controls are twenty trials."""
    stage = Stage(tmp_path)
    target = SimpleNamespace(name="torch/int8")
    clean = [
        Item(stage=stage, target=target, planting=None, number=n) for n in range(20)
    ]

    assert len({key_of(item) for item in clean}) == 20


@pytest.mark.parametrize(
    "text", ["not json\n", '{"key": "a"}\n', '{"key": "a", "trial": {"x": 1}}\n']
)
def test_a_file_that_is_no_journal_is_refused(tmp_path, text):
    """The file, the line and what to do."""
    path = tmp_path / "trials.jsonl"
    path.write_text(text)

    with pytest.raises(UsageError, match=r"trials\.jsonl:1: no trial of a self-test"):
        Journal(path)
