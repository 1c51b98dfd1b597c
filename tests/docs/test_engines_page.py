"""docs/engines.md says what its runs say."""

from __future__ import annotations

import json
import os
from pathlib import Path

import generate_engines as page
import pytest

from harness.execution.run_folder import target_folder
from harness.files import write_json
from harness.judge.types import Judgement, Measurement, Verdict

ROOT = Path(__file__).parents[2]


def target(backend, scheme, verdict, reason="", drift=None):
    """One cell of the suite `toy`."""
    drifts = {}
    if drift is not None:
        drifts["drift"] = Measurement(name="drift", value=drift, low=drift, high=drift)
    return Judgement(
        suite="toy",
        backend=backend,
        scheme=scheme,
        verdict=verdict,
        reason=reason,
        measurements=drifts,
        timings={"run": 2.0},
    )


def keep(folder, targets):
    """As a run does: each verdict as soon as it is known."""
    for second, entry in enumerate(targets):
        file = target_folder(folder, entry.suite, f"{entry.backend}/{entry.scheme}")
        write_json(file / "verdict.json", entry.as_dict())
        os.utime(file / "verdict.json", (second, second))


@pytest.fixture
def written(tmp_path, monkeypatch):
    """The page of a run of seven targets."""
    monkeypatch.setattr(page, "PAGE", tmp_path / "page.md")
    monkeypatch.setattr(page, "SOURCE", tmp_path / "kept.json")
    lacks = "the plug-in lacks {} [/home/me/lib/plugin.so | 3]"
    known = "acknowledged until 2027 by me (rounds twice (1.2); budgets.toml:3): {}"
    targets = (
        target("old", "int8", Verdict.CHANGED, known.format("0.1 not 0.2")),
        target("old", "fp8", Verdict.CHANGED, known.format("0.3 not 0.4")),
        target("torch", "int8", Verdict.PASS, drift=0.0421),
        target("other", "int8", Verdict.DEFECT, "off\nby one", drift=0.5),
        target("odd", "int8", Verdict.UNSUPPORTED, f"{'0a' * 20}.onnx is not read"),
        target("other", "fp8", Verdict.UNSUPPORTED, lacks.format("fp8")),
        target("other", "fp4", Verdict.UNSUPPORTED, lacks.format("fp4")),
    )
    keep(tmp_path, targets)
    assert page.main([str(tmp_path)]) == 0
    return page.PAGE


def test_every_cell_says_what_came_of_it(written):
    """A drift, a verdict, or nothing; every word below the table with its reason."""
    text = written.read_text(encoding="utf-8")

    assert "7 targets, 14 s" in text
    assert "3 unsupported, 2 changed, 1 pass, 1 defect" in text
    assert "| `int8` |  | **changed** | **defect** 0.5 | 0.042 |" in text
    assert "| `fp8` |  | **changed** |  |  |" in text
    assert "| `other` | defect | `int8` | off by one |" in text


def test_later_runs_stand_beside_what_was_kept(written, tmp_path):
    """With `--add`; a target that was run again counts as it ended now."""
    again = tmp_path / "again"
    again.mkdir()
    targets = (
        target("other", "int8", Verdict.PASS, drift=0.25),
        target("new", "int8", Verdict.PASS, drift=0.5),
    )
    keep(again, targets)

    assert page.main(["--add", str(again)]) == 0
    text = written.read_text(encoding="utf-8")

    assert "8 targets, 16 s" in text
    assert "| `int8` | 0.5 |  | **changed** | 0.25 | 0.042 |" in text


def test_reasons_stand_once_and_name_no_folder(written):
    """What two schemes share is one row; a table's bars are escaped."""
    text = written.read_text(encoding="utf-8")
    row = r"| `fp8`, `fp4` | the plug-in lacks SCHEME [plugin.so \| 3] |"

    assert row in text
    assert "| changed | `int8`, `fp8` | rounds twice (1.2) |" in text
    assert "| `odd` | unsupported | `int8` | its ONNX file is not read |" in text
    assert "/home" not in text


def test_a_page_that_says_something_else_is_stale(written, capsys):
    """Edited by hand, or its runs were kept anew."""
    assert page.main(["--check"]) == 0
    written.write_text("# Other\n", encoding="utf-8")

    assert page.main(["--check"]) == 1
    assert "stale" in capsys.readouterr().out


def test_the_page_that_is_kept_is_the_one_that_is_written():
    """And none of its reasons names a folder of the machine that it ran on."""
    kept = json.loads(page.SOURCE.read_text(encoding="utf-8"))

    assert "vad" in kept
    assert page.main(["--check"]) == 0
    assert all("/home" not in cell[5] for run in kept.values() for cell in run["cells"])
