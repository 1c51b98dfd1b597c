"""benchmarks/selftest/kl_*.py: llama-perplexity's statistics beside the gate."""

from __future__ import annotations

import dataclasses
import importlib
import itertools
import sys
from pathlib import Path

import pytest

from harness.compare.operator_evidence import WeightEvidence
from harness.schemes.catalogue import scheme_by_name

ROOT = Path(__file__).parents[3]
FOLDER = ROOT / "benchmarks/selftest"
MODULES = ("kl_gate", "kl_peer", "kl_page")


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
        "cases": 12,
        "seconds": 2.0,
    }
    tools = {
        "llama-perplexity": {"values": values, "seconds": 1.0, "cpu": 0.5},
        "quantharness": told,
        "file check": {"alarm": alarm, "operator": told["operator"], "seconds": 0.5},
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


def test_the_section_counts_what_each_was_given(benchmark):
    """A file that the gate was not given is no miss of the gate."""
    page = benchmark["kl_page"]
    alone = row(0.5, defect="e", alarm=True)
    del alone["tools"]["quantharness"]
    environment = {"cpu": "c", "cores": 2, "xllamacpp": "1", "llama-perplexity": "2"}
    text = page.section(
        {
            "date": "today",
            "seed": 0,
            "chunks": 4,
            "length": 512,
            "base_bytes": 1e8,
            "record": {"seconds": 3.0},
            "environment": environment,
            "rows": [row(0.003), row(0.002, defect="d", alarm=True), alone],
        }
    )

    assert "| its check of the file alone | 2 of 2 | 0 of 1 |" in text
    assert "| the whole gate | 1 of 1 | 0 of 1 |" in text
    assert "| its check of operators alone | 0 of 1 | 0 of 1 |" in text
    assert "| mean KL ≤ 0.01 | 1 of 2 | 0 of 1 |" in text
    assert "names the right operator in 2 of 2" in text
    assert "the right cause in 1 of 1" in text


def test_a_file_is_checked_without_running_it(benchmark):
    """A weight that decodes to other codes is named; a right one passes."""
    gate = benchmark["kl_gate"]
    right = WeightEvidence(
        operator="a", expected="int8", found="int8", unexplained=0.0, differing=0
    )
    wrong = dataclasses.replace(right, operator="b", nonfinite_scales=3)
    scheme = scheme_by_name("int8")

    assert not gate._outcome(scheme, [right]).results[0].verdict.fails
    (result,) = gate._outcome(scheme, [right, wrong]).results
    assert result.verdict.fails
    assert "weight of b: NaN or Inf scales=3" in result.reason
