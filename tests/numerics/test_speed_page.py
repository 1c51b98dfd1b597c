"""docs/numerics-speed.md is what benchmarks/numerics/page.py makes of result.json."""

from __future__ import annotations

import copy
import importlib.util
import json
from pathlib import Path

ROOT = Path(__file__).parents[2]


def writer():
    """The module that writes the page."""
    path = ROOT / "benchmarks/numerics/page.py"
    spec = importlib.util.spec_from_file_location("numerics_speed_page", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def measured():
    """What was measured: beside the peers, and alone."""
    folder = ROOT / "benchmarks/numerics"
    names = ("result.json", "alone.json")
    return [json.loads((folder / name).read_text("utf-8")) for name in names]


def test_the_page_is_what_was_measured():
    """Every number of the page is computed from the results."""
    page = (ROOT / "docs/numerics-speed.md").read_text("utf-8")

    assert page == writer().page(*measured())


def test_a_missed_aim_is_said():
    """A row that is too slow, against a peer or a copy, is among the missed aims."""
    beside, alone = (copy.deepcopy(each["rows"][0]) for each in measured())
    alone["seconds"]["quantize"] = 5 * alone["seconds"]["copy"]
    seconds = writer().spent(beside)
    seconds["torch quantize"] = seconds["ours quantize"] / 2

    assert "quantize: 5.0 copies" in writer().heavy(alone)
    assert "quantize: 0.5 x torch" in writer().slow(beside)
