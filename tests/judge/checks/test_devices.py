"""Sets of devices: against what is declared, the budgets and the baseline."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from harness.judge import judge
from harness.judge.checks.devices import age_text, devices
from harness.judge.evidence import (
    Budget,
    DeviceEvidence,
    DeviceSeries,
    DeviceTail,
)
from harness.judge.evidence_file import evidence_as_dict, evidence_from_dict
from harness.judge.levels import Levels
from harness.judge.types import Verdict

AGES = (0.0, 3600.0, 86400.0)
MARGIN = Budget(metric="behaviour.labels.loss", limit=0.1, source="suite.toml:3")
DRIFT = Budget(metric="drift", limit=0.5, source="suite.toml:2")
#: Of limits that hold nothing, so that the baseline alone decides.
WIDE = {
    "drift": dataclasses.replace(DRIFT, limit=1e3),
    MARGIN.metric: dataclasses.replace(MARGIN, limit=1.0),
}


def device(seed=1, draws=12, **changes):
    """A set of faultless devices; `changes`: factor or offset on a kind of series."""
    rng, other = (np.random.default_rng([seed, i]) for i in range(2))

    def series(kind, of, age, values):
        values = changes.get(kind, lambda v, _age: v)(values, age)
        return DeviceSeries(kind=kind, of=of, age=age, values=values)

    entries, tails = [], []
    for age in AGES:
        noise = rng.standard_normal((4, draws))
        entries += [
            series("drift", "", age, 0.3 * np.exp(0.25 * noise[0])),
            series("error", "fc", age, rng.chisquare(8, draws) / 8),
            series("channel", "fc", age, other.chisquare(1, (draws, 64)).max(axis=1)),
            series("gain", "fc", age, 0.01 * noise[1]),
            series("offset", "fc", age, 0.01 * noise[2]),
            series("wrong", "labels", age, 0.05 + 0.02 * rng.random(draws)),
        ]
        tails.append(
            DeviceTail(
                operator="fc", age=age, channel=2, ratio=0.5, draws=draws, among=64
            )
        )
    entries.append(series("slope", "", AGES[-1], 0.02 + 0.01 * noise[3]))
    return DeviceEvidence(
        determinism="drifts",
        seeds=tuple(range(draws)),
        first=8,
        wanted=draws,
        declares=True,
        reference_wrong={"labels": 0.02},
        cases=32,
        series=tuple(entries),
        tails=tuple(tails),
    )


@pytest.fixture
def check(make):
    """Judge a set of devices, beside a baseline or not."""

    def judged(now, before=None, **changes):
        baseline = before and make["baseline"](device=before)
        changes.setdefault("budgets", {"drift": DRIFT, MARGIN.metric: MARGIN})
        return judge(
            make["evidence"](
                device=now, weight_only=False, baseline=baseline, **changes
            )
        )

    return judged


def failing(judgement):
    return {(c.check, c.verdict) for c in judgement.checks if c.verdict.fails}


def test_faultless_devices_pass(check):
    """Alone and against another set, with what it rests on."""
    found = check(device(), device(seed=2))

    assert found.verdict is Verdict.PASS, found.reason
    assert found.measurements["drift"].cases == 12
    low, high = (getattr(found.measurements["drift"], end) for end in ("low", "high"))
    assert low < found.measurements["drift"].value < high


def test_exact_targets_are_judged_as_ever(make):
    """Without devices the check says nothing."""
    assert devices(make["evidence"](), Levels()).results == ()


def test_one_runs_numbers_name_no_verdict(check, make):
    """The run of a single device may be far beyond: its set decides."""
    found = check(device(), drift=make["paired"](5.0), behaviours=())
    assert found.verdict is Verdict.PASS


@pytest.mark.parametrize("kind", ["error", "gain", "offset"])
def test_errors_beyond_the_declared_are_a_defect(check, kind):
    """A mean square four times the declared, a gain or an offset of a tenth."""
    worse = {"error": lambda v, _: 4 * v}.get(kind, lambda v, _: v - 0.1)
    found = check(device(**{kind: worse}))

    assert failing(found) == {("explained", Verdict.DEFECT)}
    assert "operator fc" in found.reason


def test_a_device_that_declares_nothing_has_no_defect(check):
    """What was not declared cannot be broken; the baseline remains."""
    bad = device(error=lambda v, _: 4 * v)
    bad = dataclasses.replace(bad, declares=False)

    assert check(bad).verdict is Verdict.PASS
    assert check(bad, device(seed=2)).verdict is Verdict.REGRESSION


def test_a_channel_in_the_tail_is_a_defect(check):
    """One column eight times beyond, or more, in each of twelve devices."""
    clean = device()
    tail = dataclasses.replace(clean.tails[1], ratio=8.0)
    found = check(dataclasses.replace(clean, tails=(tail,)))

    assert failing(found) == {("explained", Verdict.DEFECT)}
    assert "channel 2" in found.reason
    assert "1 h after" in found.reason


def test_an_error_only_when_aged_is_a_defect(check):
    """Drift that is left as it is shows at the last age alone."""
    late = device(error=lambda v, age: v * (5 if age == AGES[-1] else 1))
    found = check(late)

    assert found.verdict is Verdict.DEFECT
    assert "1 d after" in found.reason


def test_drift_beyond_its_budget_fails(check):
    """With its whole interval; at the age at which it is."""
    found = check(device(drift=lambda v, age: v * (1 + 9 * (age == AGES[-1]))))

    assert failing(found) == {("distance", Verdict.DRIFT)}
    assert found.reason.startswith("drift[1 d]=")


def test_the_youngest_devices_need_not_be_new(check):
    """Whatever the first age is: its numbers have plain names, held by budgets."""
    later = {age: age + 25 for age in AGES}
    now = device()
    moved = dataclasses.replace(
        now,
        series=tuple(dataclasses.replace(s, age=later[s.age]) for s in now.series),
        tails=tuple(dataclasses.replace(t, age=later[t.age]) for t in now.tails),
    )
    found = check(moved)

    assert found.verdict is Verdict.PASS, found.reason
    assert found.measurements["drift"].budget == DRIFT.limit
    assert "behaviour.labels.loss" in found.measurements


def test_a_budget_that_few_draws_cannot_resolve_is_inconclusive(check):
    """Wide interval across the limit: not a pass."""
    wide = device(drift=lambda v, _: 0.35 * (v / 0.3) ** 6)
    found = check(wide)

    assert found.verdict is Verdict.INCONCLUSIVE
    assert "12 devices would do" in found.reason


def test_lost_answers_fail(check):
    """Forty of a hundred wrong, two before, ten allowed."""
    found = check(device(wrong=lambda v, _: v + 0.38))

    assert failing(found) == {("behaviour", Verdict.BEHAVIOUR)}


@pytest.mark.parametrize(
    "kind", ["drift", "error", "channel", "gain", "offset", "wrong", "slope"]
)
def test_a_mean_that_rose_is_a_regression(check, kind):
    """Each kind of number, in the direction that is worse, within every limit."""
    move = {
        "drift": lambda v, _: 2.5 * v,
        "error": lambda v, _: 4 * v,
        "channel": lambda v, _: 3 * v,
        "gain": lambda v, _: v - 0.1,
        "offset": lambda v, _: v + 0.1,
        "wrong": lambda v, _: v + 0.05,
        "slope": lambda v, _: v + 0.1,
    }[kind]
    worse = dataclasses.replace(device(**{kind: move}), declares=False)
    found = check(worse, device(seed=2), budgets=WIDE)

    assert ("regression", Verdict.REGRESSION) in failing(found)
    reason = next(c.reason for c in found.checks if c.verdict is Verdict.REGRESSION)
    assert f"{kind}" in reason
    better = check(device(seed=2), worse, budgets=WIDE)
    assert (better.verdict is Verdict.PASS) == (kind not in {"gain", "offset"})


def test_a_longer_tail_is_a_regression(check):
    """Sixteen of forty beyond everything before, while the mean hides in the spread."""
    before, now = device(seed=2, draws=40), device(draws=40)
    largest = max(before.series[0].values.max(), now.series[0].values.max())

    def tail(series):
        values = series.values.copy() * 0.4
        values[:16] = 1.01 * largest
        return dataclasses.replace(series, values=values)

    first = tail(now.series[0])
    now = dataclasses.replace(now, series=(first, *now.series[1:]))
    found = check(now, before, budgets=WIDE)

    assert found.verdict is Verdict.REGRESSION
    assert found.reason.startswith("tail of drift at 0 s")


def test_a_baseline_without_draws_is_stale(check, make):
    """A pass would be a lie."""
    found = judge(make["evidence"](device=device(), baseline=make["baseline"]()))
    assert ("regression", Verdict.STALE) in failing(found)

    few = dataclasses.replace(device(), series=device().series[:3])
    assert ("regression", Verdict.STALE) in failing(check(device(), few))
    problem = make["baseline"](problem="another model", device=device())
    found = judge(make["evidence"](device=device(), baseline=problem))
    reasons = [c.reason for c in found.checks if c.verdict is Verdict.STALE]
    assert "another model" in reasons[0]


def test_a_budget_for_nothing_is_vacuous(check):
    """A limit that nothing is held to must not look kept."""
    odd = Budget(metric="output.kl", limit=1.0, source="suite.toml:9")
    found = check(device(), budgets={"output.kl": odd, **WIDE})

    assert failing(found) == {("distance", Verdict.VACUOUS)}


def test_the_margin_of_the_suite_counts(check, make):
    """Without a budget, the behaviour's own margin, else what was published."""
    lost = device(wrong=lambda v, _: v + 0.3)
    entry = make["behaviour"](margin=0.5)
    plain = {"budgets": {"drift": DRIFT}}
    assert check(lost, behaviours=(entry,), **plain).verdict is Verdict.PASS
    entry = make["behaviour"]()
    assert check(lost, behaviours=(entry,), **plain).verdict is Verdict.BEHAVIOUR


def test_devices_are_kept_in_the_evidence_file(make):
    """What was written is judged the same again."""
    evidence = make["evidence"](device=device(), baseline=None, weight_only=False)
    again = evidence_from_dict(evidence_as_dict(evidence))

    assert judge(evidence) == judge(again)
    assert again.device is not None
    assert again.device.series[0].values.shape == (12,)


def test_ages_are_told_in_the_largest_unit():
    """Days, hours, seconds."""
    assert [age_text(a) for a in (0.0, 90.0, 7200.0, 2592000.0)] == [
        "0 s",
        "90 s",
        "2 h",
        "30 d",
    ]
