"""Reports to render in tests."""

from harness.judge.types import (
    CheckResult,
    Judgement,
    Measurement,
    OperatorResult,
    Report,
    Verdict,
)


def judgement(scheme="fp8", verdict=Verdict.PASS, **more):
    """A target with one measurement and two operators."""
    drift = Measurement(
        name="drift", value=0.1, low=0.08, high=0.12, budget=0.2, cases=64
    )
    fields = {
        "suite": "minilm",
        "backend": "torch",
        "scheme": scheme,
        "verdict": verdict,
        "reason": "drift=0.1, but should be at most 0.2",
        "checks": (
            CheckResult(check="explained", verdict=Verdict.PASS),
            CheckResult(
                check="distance", verdict=verdict, reason="why", measurement="drift"
            ),
        ),
        "measurements": {"drift": drift},
        "operators": (
            OperatorResult(name="a.b", unexplained=1e-5, limit=1e-3),
            OperatorResult(name="c.d", unexplained=0.5, limit=1e-3),
        ),
        "timings": {"run": 1.5},
        "execution": "emulated: all",
        "command": "quantharness explain RUN minilm/torch/fp8",
    }
    return Judgement(**{**fields, **more})


def report(*targets, run="20261123-000000-abcd", **more):
    """A run of these targets."""
    fields = {
        "run": run,
        "environment": {"cpu": "a <b> & c", "package.torch": "2"},
        "targets": tuple(targets),
        "folder": "reports/x",
        "started": "2026-11-23T00:00:00+00:00",
        "seconds": 3.0,
    }
    return Report(**{**fields, **more})
