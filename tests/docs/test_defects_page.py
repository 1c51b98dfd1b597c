"""docs/defects.md says which defect that was met is planted by what."""

from __future__ import annotations

import re
from pathlib import Path

import generate_defects as page

from harness.defects import DEFECTS

ROOT = Path(__file__).parents[2]
ENTRIES = page.read()


def test_the_page_is_what_the_catalogue_says():
    """Generated, not written."""
    assert (ROOT / "docs/defects.md").read_text() == page.render(ENTRIES)


def test_a_page_that_says_something_else_is_stale(tmp_path, monkeypatch, capsys):
    """`--check` ends with 1 and says what to run."""
    other = tmp_path / "defects.md"
    other.write_text("old")
    monkeypatch.setattr(page, "PAGE", other)

    assert page.main(["--check"]) == 1
    assert "python docs/generate_defects.py" in capsys.readouterr().out
    assert page.main([]) == 0
    assert page.main(["--check"]) == 0


def test_every_entry_is_planted_or_says_why_not():
    """And never both."""
    assert len({entry.id for entry in ENTRIES}) == len(ENTRIES) == 210
    for entry in ENTRIES:
        assert bool(entry.planters) is not bool(entry.gap), entry.id
        assert entry.what
        assert all(re.fullmatch(r"[\w./-]+[#@]\w+", link) for link in entry.links)
        assert entry.links


def test_every_planter_is_there_and_plants_something_that_was_met():
    """None is invented, none forgotten."""
    named = {name for entry in ENTRIES for name in entry.planters}

    assert named == set(DEFECTS)
