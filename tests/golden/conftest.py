"""A small golden with every kind of output."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import pytest

from harness.golden.store import Golden, compact


@pytest.fixture
def make_golden():
    """Make a golden; fields given replace the defaults."""

    def make(**changes):
        rng = np.random.default_rng(0)
        outputs = {
            case: {
                "embedding": compact(rng.standard_normal((1, 8)).astype(np.float16)),
                "text/probs": compact(
                    rng.dirichlet(np.full(200, 0.05), (1, 3)).astype(np.float32),
                    kind="distribution",
                ),
                "logits": compact(
                    rng.standard_normal((1, 2, 2000)).astype(np.float32),
                    kind="logits",
                    labels=np.array([[5, -1]]),
                ),
                "bf16": compact(
                    np.float32([[-0.0, np.nan]]).astype(ml_dtypes.bfloat16)
                ),
                "int4": compact(np.arange(-8, 8).astype(ml_dtypes.int4)),
                "scalar": compact(np.float64(3.5)),
                "empty": compact(np.zeros((0, 3), np.int64)),
            }
            for case in ("zeta", "alpha/1", "ümlaut")
        }
        fields = {
            "suite": "mine",
            "model_fingerprint": "content-v1:m",
            "cases_fingerprint": "content-v1:c",
            "environment": {"python": "3.11"},
            "precision": {"requested": "fp16", "error": float("nan")},
            "noise_floor": {"repeat": 0.0, "threads": float("inf")},
            "operators": {"layer.0": {"amax": np.float32(2.5), "outliers": [1, 2]}},
            "outputs": outputs,
            "behaviours": {"argmax": {"zeta": {"answer": "é", "right": True}}},
            "reason": "first recording",
            "date": "2026-01-01",
            "author": "someone",
        }
        return Golden(**{**fields, **changes})

    return make
