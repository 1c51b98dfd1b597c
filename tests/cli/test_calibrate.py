"""What `calibrate` says of a proposal."""

from __future__ import annotations

import dataclasses

from harness.cli.calibrate import describe
from harness.judge.calibrate import Proposal

PROPOSAL = Proposal(
    target="torch/fp8_e4m3",
    metric="drift",
    value=0.07,
    low=0.06,
    high=0.08,
    limit=0.08,
    detectable=0.01,
    current=None,
    slack_sigma=None,
    theory=None,
    cases=40,
    data="sha256:00",
)


def test_a_new_limit():
    """Measured with its interval and cases, and the limit that follows."""
    assert (
        "torch/fp8_e4m3 drift: measured 0.07 (0.06 to 0.08, 40 cases), limit 0.08, new"
        == describe(PROPOSAL)
    )


def test_slack_is_in_sigma():
    """Beside today's limit and what theory says; tightening is proposed."""
    known = dataclasses.replace(PROPOSAL, current=0.2, slack_sigma=13.04, theory=0.3)

    assert describe(known).endswith(
        "limit 0.08, today's 0.2 (13.0 sigma of slack), theory 0.3, tighten"
    )
