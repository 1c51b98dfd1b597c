"""Nights add up: the state is kept in the history, and holds its level over all."""

from __future__ import annotations

import dataclasses
import json

import numpy as np
import pytest

from harness.errors import UsageError
from harness.history import append, load
from harness.history.nights import Nights
from harness.judge import judge_run
from harness.judge.evidence import BehaviourEvidence, Evidence, Paired
from harness.judge.levels import ALPHA, FALSE_DISCOVERY_RATE
from harness.judge.types import Report

CASES = tuple(f"case-{i}" for i in range(200))
NAME = "s/b/x/labels"


def evidence(right, cases=CASES, scheme="x"):
    """A target that answered so."""
    right = np.asarray(right, bool)
    squares = np.ones(len(cases))
    return Evidence(
        suite="s",
        backend="b",
        scheme=scheme,
        seed=1,
        activations_found=("o",),
        activations_expected=("o",),
        drift=Paired(cases=cases, error_sq=0.01 * squares, reference_sq=squares),
        behaviours=(
            BehaviourEvidence(
                name="labels",
                cases=cases,
                reference_right=right,
                target_right=right,
                margin=0.0,
            ),
        ),
    )


def churned(rng, right, churn, drop=0.0):
    """Answers of the next night: some change at random, some are lost for good."""
    changed = rng.random(len(right)) < churn
    return np.where(changed, rng.random(len(right)) < 0.9 - drop, right)


def wealth(state):
    """The bet on the only behaviour."""
    return state.answers[NAME].wealth


def test_only_what_changed_since_last_night_counts():
    """An answer that stays lost is one loss, however many nights one looks."""
    right = np.ones(200, bool)
    worse = right.copy()
    worse[:12] = False
    state = Nights()
    for answers in (right, worse, worse, worse):
        state, (judged,) = state.tonight([evidence(answers)])

    assert (3, 12, 0) == (
        wealth(state).nights,
        wealth(state).lost,
        wealth(state).gained,
    )
    assert judged.nights[0].level == ALPHA
    (found,) = judge_run([judged], mode="nightly", night=state.night)
    assert "regression" == str(found.verdict)
    assert "lost=12, gained=0 over 3 nights" in found.reason


def test_the_first_night_compares_nothing():
    """So nothing of it passes; from the second on a check says so."""
    state, counts = Nights(), []
    for _ in range(2):
        state, (judged,) = state.tonight([evidence(np.ones(200))])
        (found,) = judge_run([judged], mode="nightly", night=state.night)
        counts.append(sum("nights" in check.reason for check in found.checks))

    assert counts == [0, 1]


def test_churn_is_no_regression():
    """As many lost as gained pass, night after night."""
    rng = np.random.default_rng(5)
    state, right = Nights(), rng.random(200) < 0.9
    for _ in range(20):
        right = churned(rng, right, 0.05)
        state, (judged,) = state.tonight([evidence(right)])
    (found,) = judge_run([judged], mode="nightly", night=state.night)

    assert wealth(state).lost > 5
    assert "pass" == str(found.verdict)


@pytest.mark.quant_slow
def test_all_nights_together_hold_the_level():
    """Over 60 nights of churn at most 1% ever alarm; a slow loss is found."""
    alarms = {0.0: 0, 0.4: 0}
    for drop in alarms:
        for seed in range(400):
            rng = np.random.default_rng([seed, 7])
            state, right = Nights(), rng.random(200) < 0.9
            for _ in range(60):
                right = churned(rng, right, 0.1, drop)
                state, _ = state.tonight([evidence(right)])
                if wealth(state).p_value <= ALPHA:
                    alarms[drop] += 1
                    break

    # With 400 repetitions at 1%, more than 10 would have chance below 1%.
    assert alarms[0.0] <= 10
    assert alarms[0.4] >= 380


def test_alpha_is_spent_once_over_all_nights():
    """The state says the number of the night, its level, and what is spent so far."""
    state, levels = Nights(), []
    for _ in range(200):
        state, _ = state.tonight([])
        levels.append(state.alpha)

    assert levels[0] > levels[1] > levels[-1] > 0
    assert state.spent == pytest.approx(sum(levels))
    assert state.spent < FALSE_DISCOVERY_RATE
    assert 200 == state.night


def test_other_cases_start_anew_and_keep_the_bet():
    """Nothing is compared between different questions."""
    state, _ = Nights().tonight([evidence(np.ones(200))])
    worse = np.r_[np.zeros(20), np.ones(180)]
    state, _ = state.tonight([evidence(worse)])
    before = wealth(state)
    state, _ = state.tonight([evidence(np.zeros(200), tuple(f"n{c}" for c in CASES))])

    assert before == wealth(state)
    assert 200 == len(state.answers[NAME].wrong)


def test_a_target_that_did_not_run_keeps_its_state():
    """A night without it is no night for it; the level is shared by all known."""
    state, _ = Nights().tonight([evidence(np.ones(200)), evidence([], (), "y")])
    later, (judged,) = state.tonight([evidence([], (), "y")])

    assert state.answers[NAME] == later.answers[NAME]
    assert ALPHA / 2 == judged.nights[0].level


def test_the_history_holds_the_state(tmp_path):
    """Written with the run, read back with the history; damage is named."""
    state, _ = Nights().tonight([evidence(np.ones(200))])
    state, _ = state.tonight([evidence(np.r_[np.zeros(3), np.ones(197)])])
    report = Report(
        run="r",
        environment={},
        targets=(),
        started="2026-11-01",
        nights=state.as_dict(),
    )
    path = append(report, tmp_path)
    found = Nights.after(load(tmp_path).reports)

    assert state.as_dict() == found.as_dict()
    assert wealth(state) == wealth(found)
    assert Nights() == Nights.after(())
    data = json.loads(path.read_text())
    del data["nights"]["answers"][NAME]["wealth"]["lost"]
    path.write_text(json.dumps(data))
    with pytest.raises(UsageError, match="run r: the state of its nights"):
        Nights.after(load(tmp_path).reports)


def test_gates_do_not_bet():
    """Without a history there is no state, and no check of it."""
    (found,) = judge_run([evidence(np.ones(200))])
    assert "nights" not in json.dumps(found.as_dict())
    assert (
        "nights"
        not in dataclasses.replace(
            Report(run="r", environment={}, targets=())
        ).as_dict()
    )
