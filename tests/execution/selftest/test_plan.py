"""What a self-test tries, and what it says of the trials."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from harness.defects import DEFECTS, WHOLE, Planting
from harness.execution.selftest.api import sampled
from harness.execution.selftest.plan import levels, plan
from harness.execution.selftest.stage import Faultless, unless_clean_fails_too
from harness.execution.selftest.summary import blind_spots, summary, why
from harness.execution.selftest.trial import Trial
from harness.reports.selftest import print_selftest, render, verdict

#: Two linear layers of one shape, one of another.
OPERATORS = {"a": (8, 4), "b": (8, 4), "c": (4, 8)}


def stage(name="toy", backend="torch"):
    """As much of a stage as a plan looks at."""
    suite = SimpleNamespace(name=name, seed=7)
    return SimpleNamespace(suite=suite, backend=backend, key=(name, backend))


def target(scheme):
    return SimpleNamespace(name=f"torch/{scheme}", scheme=SimpleNamespace(name=scheme))


def trial(defect="scale_missing", verdict="defect", **changes):
    """A defect in one operator, judged."""
    given = {
        "suite": "toy",
        "target": "torch/int8",
        "planting": Planting(defect=defect, operator="fc"),
        "severity": DEFECTS[defect].severity,
        "verdict": verdict,
        "check": "explained",
        "fired": True,
        "operator": "fc",
        "cause": "scale missing",
        "confidence": 0.99,
        "moved": 0.5,
    }
    return Trial(**{**given, **changes})


def control(verdict="pass"):
    """A clean run."""
    return Trial(suite="toy", target="torch/int8", planting=None, verdict=verdict)


def test_every_defect_is_tried_in_one_operator_and_in_all_at_every_strength():
    """A runtime's defect only as a whole; clean runs beside."""
    targets = [target("int8"), target("nvfp4")]
    names = {t.name: OPERATORS for t in targets}

    items = plan(stage(), targets, names, controls=2)

    clean = [i for i in items if i.planting is None]
    planted = [i for i in items if i.planting is not None]
    assert len(clean) == 4
    assert {i.planting.defect for i in planted} == set(DEFECTS)
    for name, defect in DEFECTS.items():
        mine = [i for i in planted if i.planting.defect == name]
        places = {i.planting.operator for i in mine}
        assert None in places
        assert (len(places) == 2) is (defect.place not in WHOLE)
        assert {i.level for i in mine} == {
            level for level, _ in levels(defect, ("low", "catalogue", "high"))
        }


def test_a_defect_that_does_not_fit_is_tried_in_an_operator_of_every_other_shape():
    """Those in all operators have nowhere else to be."""
    names = {"torch/int8": {**OPERATORS, "d": (4, 8), "e": (2, 2)}}

    items = plan(stage(), [target("int8")], names)

    elsewhere = {i.planting.operator: i.elsewhere for i in items if i.planting}
    assert {
        "a": ("c", "e"),
        "b": ("c", "e"),
        "c": ("e", "a"),
        "d": ("e", "a"),
        "e": ("a", "c"),
        None: (),
    } == elsewhere


def test_a_sample_covers_every_target_and_is_drawn_alike_twice():
    """The draw hangs on the suite's seed alone."""
    targets = [target(name) for name in ("int8", "nvfp4", "mxfp8")]
    items = plan(stage(), targets, {t.name: OPERATORS for t in targets})

    first, second = sampled(items, 30), sampled(items, 30)

    assert first == second
    planted = [i for i in first if i.planting is not None]
    assert len(planted) == 30
    assert {i.target.name for i in planted} == {t.name for t in targets}
    assert len({i.planting.defect for i in planted}) > 20
    assert len(first) - len(planted) == 3


def test_a_miss_is_counted_and_told_why(capsys):
    """The gate said pass: the matrix is red there."""
    missed = trial(verdict="pass", check="artifact", operator="", moved=1e-5)

    found = summary([trial(), missed, control()], [])
    print_selftest(found)

    out = capsys.readouterr().out
    assert found["caught"]["count"] == 1
    assert found["caught"]["of"] == 2
    # Exact binomial, by hand: (1 - p)^2 = 0.975 and p^2 = 0.975.
    assert found["caught"]["low"] == pytest.approx(1 - 0.975**0.5)
    assert found["caught"]["high"] == pytest.approx(0.975**0.5)
    assert "missed at catalogue strength: scale_missing in toy/torch/int8" in out
    assert "the outputs move by 1e-05 of their size" in out
    assert "1 of 2 (50.0%, 1.3% to 98.7%) planted defects caught" in out
    assert 'part"' in render(found)
    assert "Something gets through" in render(found)


@pytest.mark.parametrize("verdict", ["pass", "defect"])
def test_what_right_backends_may_do_counts_neither_way(capsys, verdict):
    """No miss and no catch, but it is told."""
    found = summary([trial(), trial(verdict=verdict, tolerated=True)], [])
    print_selftest(found)

    assert (1, 1) == (found["caught"]["count"], found["caught"]["of"])
    assert not found["missed"]
    assert "not counted: scale_missing in toy/torch/int8" in capsys.readouterr().out
    assert "Not counted" in render(found)
    assert "Everything at catalogue strength is caught" in render(found)


def test_nothing_planted_is_no_success(capsys):
    """Unfit, never met, tolerated: not one of them tests the gate."""
    unfit = trial(verdict="", unfit="no blocks", fired=None)
    trials = [unfit, trial(verdict="pass", fired=False), trial(tolerated=True)]
    found = summary([*trials, control()], [])
    print_selftest(found)
    out = capsys.readouterr().out

    assert "nothing was tested: 1 plantings did not fit, 2 changed nothing" in out
    assert "Nothing was tested" in render(found)
    assert "is caught" not in render(found)


def test_a_false_alarm_is_as_loud_as_a_miss(capsys):
    """A clean run that fails the gate."""
    found = summary([trial(), control("defect")], [])
    print_selftest(found)

    assert "FALSE ALARM toy/torch/int8: defect" in capsys.readouterr().out
    assert "1 false alarms in 1 clean runs" in verdict(found)
    assert "False alarms" in render(found)


def test_all_caught_is_green():
    """And says so."""
    found = summary([trial(), control()], [])

    assert found["missed"] == []
    assert found["operator_right"]["share"] == 1
    assert "Everything at catalogue strength is caught" in render(found)


def test_what_never_fired_is_no_miss_but_a_blind_spot():
    """With what to add to the suite."""
    never = trial("wrong_for_long_inputs", verdict="pass", fired=False)

    found = summary([never, trial()], [])

    assert found["planted"] == 1
    spot = blind_spots([never])[0]
    assert spot["defect"] == "wrong_for_long_inputs"
    assert spot["add"].startswith("a case of at least")


@pytest.mark.parametrize(
    ("name", "add"),
    [
        ("cache_wrong_beyond_512_tokens", "a case of more than 512 positions"),
        ("cache_wrong_from_fifth_entry", "two cases of the same shape"),
        ("prompt_truncated", "a case of more than 256 tokens"),
        ("digits_confused", "a prompt with numbers in it"),
        ("wrong_for_large_rows", "times as large as the median row"),
    ],
)
def test_a_blind_spot_says_what_to_add(name, add):
    """What the suite's cases lack."""
    (spot,) = blind_spots([trial(name, verdict="pass", fired=False)])

    assert add in spot["add"]


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"verdict": "inconclusive", "reason": "few cases"}, "cannot resolve it: few"),
        ({"moved": 0.0}, "no output moves"),
        ({"verdict": "error", "reason": "no room"}, "could not be run: no room"),
        ({"defect": "wrong_after_first_call"}, "meets its condition"),
    ],
)
def test_why_it_was_missed(changes, words):
    """Too few cases, no effect, or a condition that was not met."""
    assert words in why(trial(**{"verdict": "pass", **changes}))


def test_strengths_that_are_one_are_tried_once():
    """`there or not` has no levels."""
    assert len(list(levels(DEFECTS["stale_output"], ("low", "catalogue", "high")))) == 1


@pytest.mark.parametrize(
    ("alarm", "caught"),
    [(None, True), (("vacuous", "behaviour"), True), (("defect", "explained"), False)],
)
def test_a_failure_that_the_clean_run_shows_too_is_no_catch(alarm, caught):
    """A few cases may fail whatever is planted: then all of them are asked."""
    clean = Faultless({}, {}, alarm)

    found = unless_clean_fails_too(trial(), clean)

    assert found.caught is caught
    assert ("without the defect as well" in found.reason) is not caught


def test_what_was_caught_was_there():
    """An output that is wrong only when it is asked again is no blind spot."""
    again = trial("buffer_reused", verdict="unstable", fired=False)
    never = trial("buffer_reused", verdict="pass", fired=False)

    assert again.planted
    assert not never.planted
    assert [] == blind_spots([again])
    assert 1 == len(blind_spots([never]))
