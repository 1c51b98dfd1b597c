"""benchmarks/selftest: the same planted models for every tool, judged alike."""

from __future__ import annotations

import copy
import importlib
import json
import math
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
FOLDER = ROOT / "benchmarks/selftest"
MODULES = (
    "run",
    "page",
    "kl_page",
    "score",
    "thresholds",
    "ours",
    "planted",
    "count_runs",
)


@pytest.fixture(scope="module")
def benchmark():
    """Its modules, which find each other as siblings do."""
    sys.path.insert(0, str(FOLDER))
    try:
        yield {name: importlib.import_module(name) for name in MODULES}
    finally:
        sys.path.remove(str(FOLDER))
        for name in MODULES:
            sys.modules.pop(name, None)


@pytest.fixture(scope="module")
def result():
    """What was measured."""
    return json.loads((FOLDER / "result.json").read_text("utf-8"))


def row(value, *, defect="", scheme="a", control="", level="clean"):
    """One model, as far as a threshold on its cosine sees it."""
    values = {"cosine distance": {"y": value}}
    return {
        "suite": "s",
        "scheme": scheme,
        "defect": defect,
        "planted_in": "layer" if defect else "",
        "severity": "silent" if defect else "",
        "level": level,
        "control": control,
        "tools": {"plain threshold": {"values": values, "runs": 1, "seconds": 0.5}},
    }


def judged(benchmark, rows, **options):
    """The table's line of one setting."""
    score = benchmark["score"]
    setting = score.Setting(
        tool="plain threshold", statistic="cosine distance", **options
    )
    return score.judged(rows, setting, {"s": {"layer": "y"}})


def test_the_page_is_what_was_measured(benchmark, result):
    """Every number of the page is computed from the result."""
    text = (ROOT / "docs/selftest-against-peers.md").read_text("utf-8")
    kl = json.loads((FOLDER / "kl_result.json").read_text("utf-8"))

    assert text == benchmark["page"].page(result, kl)


def test_a_calibrated_limit_passes_every_clean_run(benchmark):
    """It is the tightest that does: what is a little further is caught."""
    rows = [row(0.1), row(0.2, control="threads"), row(0.2001, defect="d", level="low")]

    line = judged(benchmark, rows, scope="scheme")

    assert line["false_alarms"] == [0, 2]
    assert line["alarms_from_one_clean_run"] == [1, 1]
    assert line["caught"] == [1, 1]


def test_a_limit_of_all_schemes_is_that_of_the_worst(benchmark):
    """A defect that is no further than another scheme's clean model gets through."""
    rows = [row(0.1), row(0.4, scheme="b"), row(0.3, defect="d")]

    assert judged(benchmark, rows, scope="suite")["caught"] == [0, 1]
    assert judged(benchmark, rows, scope="scheme")["caught"] == [1, 1]


def test_a_usual_limit_alarms_on_clean_models(benchmark):
    """What a published threshold says of a clean model is counted, not hidden."""
    line = judged(benchmark, [row(0.1), row(math.inf, defect="d")], scope="usual")

    assert line["false_alarms"] == [1, 1]
    assert line["caught"] == [1, 1]


def test_the_first_operator_over_its_limit_is_named(benchmark):
    """The planted one is right, another one is not."""
    rows = [row(0.1), row(0.3, defect="d")]
    line = judged(benchmark, rows, scope="scheme", names="first")
    assert line["operator_right"] == [1, 1]

    rows[1]["planted_in"] = "another layer"
    line = judged(benchmark, rows, scope="scheme", names="first")
    assert line["operator_right"] == [0, 1]


def test_a_peer_that_is_better_is_said(benchmark, result):
    """A tool that catches as much without a false alarm is among the better ones."""
    lines = copy.deepcopy(result["table"])
    mine, other = lines[0], lines[-1]
    other["caught"], other["false_alarms"] = mine["caught"], [0, 1]

    assert "without a false alarm" in benchmark["page"]._better(mine, [mine, other])


def test_a_planted_model_is_told_from_a_clean_one(benchmark):
    """A tiny sample of the real thing, without any other tool."""
    found = benchmark["run"].collected(
        ["vad"],
        counts={"vad": 1},
        schemes={"vad": ("int8",)},
        peers=False,
        with_ours=False,
        cases=4,
    )

    scored = benchmark["run"].scored(found, peers=False, with_ours=False)
    line = next(e for e in scored["table"] if e["scope"] == "scheme")

    assert ["defect" in s for s in scored["specimens"]] == [False] * 4 + [True]
    assert line["caught"] == [1, 1]
    assert line["false_alarms"] == [0, 4]
