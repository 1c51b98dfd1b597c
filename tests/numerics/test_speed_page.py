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
    """What was measured."""
    path = ROOT / "benchmarks/numerics/result.json"
    return json.loads(path.read_text("utf-8"))


def test_the_page_is_what_was_measured():
    """Every number of the page is computed from the result."""
    page = (ROOT / "docs/numerics-speed.md").read_text("utf-8")

    assert page == writer().page(measured())


def test_a_missed_aim_is_said():
    """A row that is too slow appears among the missed aims."""
    result = measured()
    row = copy.deepcopy(result["rows"][0])
    row["seconds"]["ours quantize"] = 5 * row["seconds"]["copy"]

    assert "quantize takes 5.0 copies" in writer().misses(row)
