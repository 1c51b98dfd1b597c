"""Goldens without a suite and suites without a golden are both found."""

from __future__ import annotations

import pytest

from harness.errors import GoldenCorrupt, GoldenMissing
from harness.golden.inventory import missing_cases, take_inventory, unused_cases
from harness.golden.store import write_golden


def test_unused_and_missing(make_golden, tmp_path):
    """Each fails with the names and what to do; a complete set passes."""
    write_golden(make_golden(), tmp_path / "mine")
    write_golden(make_golden(), tmp_path / "old")
    mine, old, new = ({n: tmp_path / n} for n in ("mine", "old", "new"))

    take_inventory(tmp_path, {**mine, **old}).check()

    with pytest.raises(GoldenCorrupt, match=r"no suite uses .*old: delete it"):
        take_inventory(tmp_path, mine).check()
    with pytest.raises(GoldenMissing, match=r"no golden for new .*record"):
        take_inventory(tmp_path, {**mine, **new}).check()


def test_cases(make_golden):
    """Cases that are only on one side are named."""
    golden = make_golden()
    assert unused_cases(golden, ["zeta"]) == ("alpha/1", "ümlaut")
    assert missing_cases(golden, ["zeta", "extra"]) == ("extra",)
