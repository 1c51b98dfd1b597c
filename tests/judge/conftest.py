"""A faultless target's evidence, to be broken one way at a time."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from harness.judge.evidence import (
    BaselineEvidence,
    BehaviourEvidence,
    Budget,
    Evidence,
    OperatorEvidence,
    Paired,
    WeightEvidence,
)

CASES = 40


def make_paired(ratio, seed=1, cases=CASES, spread=0.2):
    """Squared errors whose pooled relative L2 is about `ratio`."""
    rng = np.random.default_rng(seed)
    reference = rng.uniform(0.5, 2.0, cases)
    error = reference * ratio**2 * np.exp(spread * rng.standard_normal(cases))
    return Paired(
        cases=tuple(f"case-{i}" for i in range(cases)),
        error_sq=error,
        reference_sq=reference,
    )


def make_operator(name="encoder.0", residual=1e-6, explained=1e-6):
    """An operator whose noise is as large as theory expects."""
    return OperatorEvidence(
        operator=name,
        residual_sq=residual,
        quantization_sq=0.01,
        signal_sq=1.0,
        explained_sq=explained,
        elements=10_000,
    )


def make_behaviour(lost=0, gained=0, cases=CASES, margin=None):
    """A behaviour of which some answers changed."""
    before = np.ones(cases, bool)
    before[cases - gained :] = False
    now = np.ones(cases, bool)
    now[:lost] = False
    return BehaviourEvidence(
        name="labels",
        cases=tuple(f"case-{i}" for i in range(cases)),
        reference_right=before,
        target_right=now,
        margin=margin,
    )


def make_evidence(**changes):
    """Evidence of a faultless target, with some fields changed."""
    plain = Evidence(
        suite="toy",
        backend="torch",
        scheme="fp8_e4m3",
        seed=7,
        weight_only=True,
        budgets={"drift": Budget(metric="drift", limit=0.1, source="suite.toml:9")},
        weights=(
            WeightEvidence(
                operator="encoder.0",
                expected="fp8_e4m3",
                found="fp8_e4m3",
                unexplained=0.0,
            ),
        ),
        operators=(make_operator(), make_operator("encoder.1")),
        drift=make_paired(0.05),
        oracle_drift=make_paired(0.05),
        end_to_end=make_paired(0.0005, seed=3),
        noise_floor=5e-4,
        behaviours=(make_behaviour(),),
    )
    return dataclasses.replace(plain, **changes)


def make_baseline(**changes):
    """The same target in an earlier run, moved by a little."""
    plain = BaselineEvidence(
        run="reports/last",
        same_environment=True,
        drift=make_paired(0.05, seed=5),
        moved=make_paired(0.02),
    )
    return dataclasses.replace(plain, **changes)


@pytest.fixture
def make():
    """Makers of evidence by name."""
    return {
        "evidence": make_evidence,
        "paired": make_paired,
        "operator": make_operator,
        "behaviour": make_behaviour,
        "baseline": make_baseline,
    }


def pytest_configure(config):
    """The marker of slow tests, also where the plugin is not installed."""
    config.addinivalue_line("markers", "quant_slow: takes more than a second")
