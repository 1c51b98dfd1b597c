"""What the gate says of a weight that was read from a file."""

from __future__ import annotations

import numpy as np
import pytest

from harness.compare.explained import other_codes
from harness.compare.operator_evidence import WeightEvidence
from harness.judge.checks.artifact import artifact
from harness.judge.evidence import Evidence, Paired
from harness.judge.levels import Levels


@pytest.fixture
def verdict_of():
    """(right, wrong, the weight itself, format) -> the verdict on what is stored."""

    def judge(right, wrong, weight, fmt):
        error = np.linalg.norm(wrong - right) / np.linalg.norm(right - weight)
        found = WeightEvidence(
            operator="fc",
            expected=fmt,
            found=fmt,
            unexplained=float(error) if np.isfinite(error) else float("inf"),
            elements=weight.size,
            differing=other_codes(wrong, right),
        )
        # Of such a target nothing but the weight can be wrong.
        drift = Paired(cases=("a",), error_sq=np.ones(1), reference_sq=np.ones(1))
        evidence = Evidence(
            suite="toy",
            backend="file",
            scheme="file",
            seed=0,
            weights=(found,),
            drift=drift,
        )
        return artifact(evidence, Levels()).results[0].verdict

    return judge
