"""Budgets with reasons, and what happens when one has none."""

from __future__ import annotations

import dataclasses
import datetime as dt
import math
import tomllib
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest

from harness.errors import ConfigError, UsageError
from harness.judge import judge
from harness.judge.budgets import acknowledgements_for, budgets_for, format_noise
from harness.judge.calibrate import Proposal, ledger_text, propose
from harness.judge.evidence import Budget, MetricEvidence
from harness.judge.types import Verdict
from harness.schemes.catalogue import SCHEMES

TODAY = dt.date(2026, 8, 1)
BUDGET = """\
[[budget]]
target = "torch/fp8_e4m3"
metric = "drift"
limit = 0.08
margin = 0.01
reason = "calibrated on the golden"
data = "sha256:00"
date = 2026-07-01
author = "jo"
expires = 2026-12-31
model = "onnx:1"
"""
KNOWN = """\
[[acknowledgement]]
target = "torch/*"
check = "distance"
metric = "drift"
limit = 0.55
reason = "bug 7"
date = 2026-07-01
author = "jo"
expires = 2026-12-31
model = "onnx:1"
"""


@dataclass
class Target:
    name: str = "torch/fp8_e4m3"
    scheme: object = field(default_factory=lambda: SCHEMES["fp8_e4m3"])
    budgets: dict = field(default_factory=lambda: {"drift": (0.2, "suite.toml:9")})


@dataclass
class Suite:
    folder: Path
    name: str = "toy"
    targets: tuple = (Target(), Target(name="torch/int8"))


def load(tmp_path, text, model="onnx:1"):
    (tmp_path / "budgets.toml").write_text(text, encoding="utf-8")
    suite = Suite(tmp_path)
    return budgets_for(suite, suite.targets[0], model, today=TODAY)


def test_without_a_ledger_the_suite_speaks(tmp_path):
    """With the line it stands in."""
    suite = Suite(tmp_path)
    found = budgets_for(suite, suite.targets[0], "onnx:1", today=TODAY)

    assert found["drift"].limit == 0.2
    assert found["drift"].source == "suite.toml:9"


def test_a_target_beside_the_suite_is_held_to_what_its_scheme_is(tmp_path):
    """The least of what others of the scheme have; of another scheme, to nothing."""
    loose = Target(name="onnx/fp8_e4m3", budgets={"drift": (0.3, "suite.toml:12")})
    suite = Suite(tmp_path, targets=(loose, Target()))
    fp8 = Target(name="new/fp8_e4m3", budgets={})
    int8 = Target(name="new/int8", scheme=SCHEMES["int8"], budgets={})

    found = budgets_for(suite, fp8, "onnx:1", today=TODAY)["drift"]
    assert found.limit == 0.2
    assert found.source == "as torch/fp8_e4m3: suite.toml:9"
    assert budgets_for(suite, loose, "onnx:1", today=TODAY)["drift"].limit == 0.3
    assert not budgets_for(suite, int8, "onnx:1", today=TODAY)


def test_the_ledger_goes_before_the_suite_and_says_why(tmp_path):
    """Its reason, author and date become the limit's source."""
    found = load(tmp_path, BUDGET)["drift"]

    assert (found.limit, found.margin) == (0.08, 0.01)
    assert found.source == ("budgets.toml:1: calibrated on the golden (jo, 2026-07-01)")


@pytest.mark.parametrize(
    ("old", "new", "line", "said"),
    [
        ("expires = 2026-12-31", "expires = 2026-07-31", 10, "expired on 2026-07-31"),
        ('model = "onnx:1"', 'model = "onnx:2"', 11, "made for another model"),
        ('"torch/fp8_e4m3"', '"torch/fp8_e4m"', 2, "did you mean 'torch/fp8_e4m3'?"),
        ('"calibrated on the golden"', '"  "', 6, "should be a text that says"),
        ("limit = 0.08", "limit = -1", 4, "should be a number >= 0"),
        ("limit = 0.08", "limit = true", 4, "should be a number >= 0"),
        ("limit = 0.08", "limit = nan", 4, "should be a number >= 0"),
        ("limit = 0.08", "limits = 0.08", 4, "did you mean 'limit'?"),
        ('author = "jo"\n', "", 1, "'author' is missing"),
        ("date = 2026-07-01", 'date = "July"', 8, "should be a date"),
        ("[[budget]]", "[budget]", 1, "write [[budget]]"),
        ("[[budget]]", "[[budgets]]", 1, "did you mean 'budget'?"),
        ("limit = 0.08", "limit = ", 4, "not TOML"),
    ],
)
def test_an_entry_that_is_wrong_names_file_and_line(tmp_path, old, new, line, said):
    """Expired, of another model, unmatched, without a reason, malformed."""
    with pytest.raises(ConfigError) as caught:
        load(tmp_path, BUDGET.replace(old, new))

    assert f"budgets.toml:{line}: " in str(caught.value)
    assert said in str(caught.value)
    assert caught.value.line == line


def test_the_second_entry_is_pointed_at_when_it_is_the_wrong_one(tmp_path):
    """Lines are counted from the file's start."""
    second = BUDGET.replace('metric = "drift"', 'metric = "y.kl"')
    with pytest.raises(ConfigError, match=r"budgets\.toml:15: limit=-1"):
        load(tmp_path, BUDGET + second.replace("limit = 0.08", "limit = -1"))


def test_two_budgets_for_one_metric_are_refused(tmp_path):
    """Which of the two would hold?"""
    with pytest.raises(ConfigError, match="two budgets for drift of torch/fp8_e4m3"):
        load(tmp_path, BUDGET + BUDGET)


def test_an_acknowledged_failure_is_shown_and_does_not_fail(tmp_path, make):
    """With its reason, its author and its end; other failures still fail."""
    (tmp_path / "budgets.toml").write_text(KNOWN, encoding="utf-8")
    suite = Suite(tmp_path)
    known = acknowledgements_for(suite, suite.targets[0], "onnx:1", today=TODAY)
    drifted = make["evidence"](drift=make["paired"](0.5), acknowledgements=known)
    lost = make["evidence"](
        behaviours=(make["behaviour"](lost=20),), acknowledgements=known
    )

    found = judge(drifted)

    assert found.verdict is Verdict.CHANGED
    assert found.reason.startswith(
        "acknowledged until 2026-12-31 by jo (bug 7; budgets.toml:1): drift="
    )
    assert judge(lost).verdict is Verdict.BEHAVIOUR


def test_a_failure_worse_than_the_acknowledged_one_still_fails(tmp_path, make):
    """An acknowledgement is of what was seen, not of whatever comes."""
    (tmp_path / "budgets.toml").write_text(KNOWN, encoding="utf-8")
    suite = Suite(tmp_path)
    known = acknowledgements_for(suite, suite.targets[0], "onnx:1", today=TODAY)
    worse = make["evidence"](drift=make["paired"](0.9), acknowledgements=known)

    found = judge(worse)

    assert found.verdict is Verdict.DRIFT
    assert "at most 0.55, worse than what budgets.toml:1 acknowledges" in found.reason


@pytest.mark.parametrize(
    ("operators", "accepted"),
    [
        ("", False),
        ('"fc" = 0.5', False),
        ('"op1" = 0.5', True),
        ('"op1" = 0.001', False),
        ('"op*" = 0.5', True),
        ('"op1" = 0.001\n"op*" = 0.5', False),
        ('"op*" = 0.001', False),
        ('"*2" = 0.5', False),
    ],
)
def test_a_guilty_operator_is_accepted_by_name_and_size(
    tmp_path, make, operators, accepted
):
    """Another, or the same with more, is a new defect; names come before patterns."""
    text = KNOWN.replace('"distance"', '"explained"').replace('metric = "drift"\n', "")
    text += f"[acknowledgement.operators]\n{operators}\n"
    (tmp_path / "budgets.toml").write_text(text, encoding="utf-8")
    suite = Suite(tmp_path)
    known = acknowledgements_for(suite, suite.targets[0], "onnx:1", today=TODAY)
    wrong = make["operator"](name="op1", residual=1e-4)

    found = judge(make["evidence"](operators=(wrong,), acknowledgements=known))

    expected = Verdict.CHANGED if accepted else Verdict.DEFECT
    assert found.verdict is expected


def test_a_limit_without_end_survives_a_rewrite_of_the_ledger():
    """An accepted NaN has one; TOML does not spell it as JSON does."""
    limits = {"fc": math.inf, "out": 0.5}
    entry = {"target": "b/int8", "check": "explained", "limit": math.inf}
    text = ledger_text([], [{**entry, "operators": limits}])
    (found,) = tomllib.loads(text)["acknowledgement"]
    assert found == {**entry, "operators": limits}


def test_acknowledgements_survive_a_rewrite_of_the_ledger(tmp_path):
    """With the operators that they name."""
    text = KNOWN + '[acknowledgement.operators]\n"a.b" = 0.5\n'
    (tmp_path / "budgets.toml").write_text(text, encoding="utf-8")
    suite = Suite(tmp_path)
    entry = tomllib.loads(text)["acknowledgement"][0]

    (tmp_path / "budgets.toml").write_text(ledger_text([], [entry]), encoding="utf-8")

    known = acknowledgements_for(suite, suite.targets[0], "onnx:1", today=TODAY)
    assert known[0].operators == {"a.b": 0.5}


def test_an_unknown_check_cannot_be_acknowledged(tmp_path):
    """A misspelt check would accept nothing, silently."""
    text = KNOWN.replace('"distance"', '"distant"')
    with pytest.raises(ConfigError, match=r"did you mean .distance.\?"):
        load(tmp_path, text)


def test_a_proposal_becomes_an_entry_that_loads(tmp_path, make):
    """Calibrate, write, read: the same limit, and the target passes with it."""
    evidence = make["evidence"]()
    proposal = propose(evidence)[0]
    entry = proposal.as_entry(model="onnx:1", author="calibrate", today=TODAY)
    found = load(tmp_path, ledger_text([entry]))

    assert proposal.low < proposal.value < proposal.limit <= found["drift"].limit
    assert found["drift"].limit == pytest.approx(proposal.limit, rel=0.01)
    interval = f"({proposal.low:.3g} to {proposal.high:.3g})"
    assert (
        f"calibrated: {proposal.value:.3g} {interval} over 40 cases"
        in found["drift"].source
    )
    assert judge(make["evidence"](budgets=found)).verdict is Verdict.PASS


def test_a_wide_budget_is_proposed_to_be_tightened(make):
    """With the slack in standard errors."""
    proposal = propose(make["evidence"]())[0]

    assert proposal.change == "tighten"
    assert proposal.slack_sigma > 3
    assert proposal.theory == pytest.approx(0.02**0.5)


def test_loosening_needs_a_reason(make):
    """Without one the entry is refused; with one it carries it."""
    proposal = propose(make["evidence"](drift=make["paired"](0.5)))[0]
    assert proposal.change == "loosen"

    with pytest.raises(UsageError, match="should not be without a reason"):
        proposal.as_entry(model="m", author="a", today=TODAY)

    entry = proposal.as_entry(model="m", author="a", today=TODAY, reason="new recipe")
    assert entry["reason"].startswith("new recipe; calibrated: ")


def test_one_case_is_no_calibration(make):
    """No interval, no budget."""
    proposal = propose(make["evidence"](drift=make["paired"](0.05, cases=1)))[0]

    with pytest.raises(UsageError, match="1 cases give no interval"):
        proposal.as_entry(model="m", author="a", today=TODAY, reason="because")


def test_the_data_digest_follows_the_numbers(make):
    """Other numbers, other digest; the same numbers, the same."""
    first = propose(make["evidence"]())[0].data
    again = propose(make["evidence"]())[0].data
    other = propose(make["evidence"](drift=make["paired"](0.05, seed=2)))[0].data

    assert first == again != other


def test_a_limit_that_needs_no_change_is_kept(make):
    """Between value and proposal nothing is proposed."""
    plain = propose(make["evidence"]())[0]
    values = {name: getattr(plain, name) for name in plain.__dataclass_fields__}

    assert Proposal(**values | {"current": plain.value}).change == "keep"
    assert Proposal(**values | {"current": None}).change == "new"


def test_the_noise_of_a_format_is_computed_from_the_format():
    """A format with one more mantissa bit has half the noise."""
    ratio = format_noise("fp8_e5m2") / format_noise("fp8_e4m3")

    assert ratio == pytest.approx(2.0, rel=0.05)


def test_a_metric_that_should_be_high_gets_a_floor(make):
    """Its limit is the lower bound, rounded down; a lower floor is looser."""
    values = np.random.default_rng(3).uniform(0.9, 1.0, 40)
    metric = MetricEvidence(
        name="y.top1_agreement",
        values=values,
        cases=tuple(f"case-{i}" for i in range(40)),
        better="higher",
    )
    evidence = make["evidence"](metrics=(metric,))
    (floor,) = [p for p in propose(evidence) if p.metric == metric.name]
    entry = floor.as_entry(model="onnx:1", author="calibrate", today=TODAY)

    assert floor.low == floor.limit < floor.value
    assert entry["limit"] <= floor.limit
    assert floor.slack_sigma is None
    for limit, change in ((0.99, "loosen"), (0.5, "tighten")):
        budget = Budget(metric=metric.name, limit=limit, source="suite.toml:2")
        asked = dataclasses.replace(evidence, budgets={metric.name: budget})
        (found,) = [p for p in propose(asked) if p.metric == metric.name]
        assert found.change == change
        assert (found.slack_sigma > 0) == (limit == 0.5)


@pytest.mark.parametrize(
    ("lost", "verdict"), [(21, Verdict.CHANGED), (90, Verdict.BEHAVIOUR)]
)
def test_an_accepted_share_of_cases_is_a_share_of_whichever_cases(
    tmp_path, make, lost, verdict
):
    """One case more than accepted is chance; many more are another failure."""
    text = KNOWN.replace('"distance"', '"behaviour"').replace('metric = "drift"\n', "")
    # 20 of the 100 cases were lost when it was accepted.
    text = text.replace("0.55", "0.2")
    (tmp_path / "budgets.toml").write_text(text, encoding="utf-8")
    suite = Suite(tmp_path)
    known = acknowledgements_for(suite, suite.targets[0], "onnx:1", today=TODAY)
    evidence = make["evidence"](
        behaviours=(make["behaviour"](lost=lost, cases=100),), acknowledgements=known
    )

    assert judge(evidence).verdict is verdict
