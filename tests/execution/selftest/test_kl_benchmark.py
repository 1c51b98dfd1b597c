"""benchmarks/selftest/kl_*.py: llama-perplexity's statistics beside the gate."""

from __future__ import annotations

import importlib
import itertools
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
FOLDER = ROOT / "benchmarks/selftest"
MODULES = ("kl_peer", "kl_page")


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


def row(kl, *, defect="", scheme="a", top=99.0, alarm=False, control=""):
    """One file, as far as its mean KL says."""
    values = {"mean KL": kl, "99% KL": kl, "PPL ratio": 1.0, "same top %": top}
    told = {
        "alarm": alarm,
        "verdict": "defect" if alarm else "pass",
        "failing": ["artifact"] if alarm else [],
        "operator": "layer" if alarm else "",
        "cause": "codes off by one" if alarm else "",
        "cause_right": True if alarm else None,
        "seconds": 2.0,
        "audit_seconds": 1.0,
    }
    tools = {
        "llama-perplexity": {"values": values, "seconds": 1.0},
        "quantharness": told,
    }
    found = {"scheme": scheme, "tools": tools}
    if not defect:
        return {**found, "control": control or "as built"}
    return {
        **found,
        "defect": defect,
        "planted_in": "layer",
        "strength": 0.03,
        "severity": "silent",
        "level": "low",
    }


def test_a_calibrated_limit_passes_every_clean_file_and_little_more(benchmark):
    """The worst clean file of the scheme; of all schemes the worst of all."""
    page = benchmark["kl_page"]
    rows = [
        row(0.003),
        row(0.004, control="threads"),
        row(0.3, scheme="b"),
        row(0.0041, defect="d"),
        row(0.2, defect="d", scheme="b"),
    ]

    of_scheme = page.calibrated(rows, ["mean KL"])
    of_all = page.everywhere(rows, ["mean KL"])

    assert [False, False, False, True, False] == [of_scheme(r) for r in rows]
    assert not any(of_all(r) for r in rows)


def test_fewer_equal_tops_are_worse(benchmark):
    """The one statistic of which less is worse; NaN is worse than any limit."""
    beyond = benchmark["kl_page"].beyond

    assert beyond("same top %", 94.9, 95.0)
    assert not beyond("same top %", 95.0, 95.0)
    assert beyond("mean KL", 0.011, 0.01)
    assert not beyond("mean KL", 0.01, 0.01)
    assert beyond("mean KL", None, 1e9)
    assert beyond("same top %", None, 0.0)


def test_usual_settings_alarm_on_clean_files_of_four_bits(benchmark):
    """And each is counted over the files that it should catch, and should not."""
    settings = benchmark["kl_page"].settings
    rows = [row(0.004), row(0.3, top=70.0, scheme="b"), row(0.02, defect="d")]
    found = settings(rows)

    alarms = {name: [alarm(r) for r in rows] for name, alarm in found.items()}

    assert [False, True, True] == alarms["mean KL ≤ 0.01"]
    assert [False, True, False] == alarms["mean KL ≤ 0.1"]
    assert [False, True, False] == alarms["same top % ≥ 90"]
    assert [False] * 2 == [
        alarm
        for name, each in alarms.items()
        if name.startswith("all four")
        for alarm in each[1:2]
    ]


def test_what_is_drawn_has_every_severity_and_both_strengths(benchmark):
    """In turn, most of them in one weight; the same again for the same seed."""
    drawn = benchmark["kl_peer"].drawn
    names = ["a", "b"]

    first = list(itertools.islice(drawn(names, 0), 12))
    again = list(itertools.islice(drawn(names, 0), 12))

    assert [(d.name, p, k) for d, p, k in first] == [
        (d.name, p, k) for d, p, k in again
    ]
    assert ["silent", "visible", "catastrophic"] * 4 == [
        d.severity for d, _, _ in first
    ]
    assert ["catalogue", "low"] * 6 == [level for _, _, level in first]
    assert 9 == sum(p.operator in names for _, p, _ in first)
    assert 3 == sum(p.operator is None for _, p, _ in first)
    for defect, planting, level in first:
        assert getattr(defect.parameter, level) == planting.strength
    assert [p for _, p, _ in first] != [
        p for _, p, _ in itertools.islice(drawn(names, 1), 12)
    ]
