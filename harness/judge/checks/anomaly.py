"""Outputs that are wrong by themselves, whatever their distance."""

from __future__ import annotations

import math
from collections import Counter
from typing import Final

import numpy as np

from harness.judge.evidence import Evidence
from harness.judge.levels import Levels
from harness.judge.outcome import Outcome, names, passed, result
from harness.judge.types import CheckResult, Verdict

_CHECK: Final = "anomaly"
#: Kinds that are wrong numbers; the others are answers that cannot be read at all.
_NUMBERS: Final = frozenset({"nan", "inf", "constant", "zero"})


def anomaly(evidence: Evidence, levels: Levels) -> Outcome:  # noqa: ARG001
    """`defect` for NaN, Inf, zero or constant outputs; `error` for garbage.

    Garbage is a wrong shape or dtype, a missing or an extra output, or case ids that
    stand twice (then nothing can be paired). A reference that is not finite is an
    error too: NaN compared with NaN would pass.
    """
    results = [
        *_anomalies(evidence),
        *_nonfinite_operators(evidence),
        *_scores(evidence),
    ]
    if not results and evidence.drift is not None:
        results = [passed(_CHECK, f"{len(evidence.drift.cases)} cases are well formed")]
    return Outcome(results=tuple(results))


def _anomalies(evidence: Evidence) -> list[CheckResult]:
    """One decision for each kind that was found, wrong numbers first."""
    kinds = Counter(entry.kind for entry in evidence.anomalies)
    results = []
    for kind in sorted(kinds, key=lambda kind: (kind not in _NUMBERS, kind)):
        first = next(entry for entry in evidence.anomalies if entry.kind == kind)
        verdict = Verdict.DEFECT if kind in _NUMBERS else Verdict.ERROR
        reason = (
            f"outputs with anomaly {kind!r}={kinds[kind]}, but should be 0 "
            f"[first: case {first.case}, output {first.output}: {first.detail}]"
        )
        results.append(result(_CHECK, verdict, reason, cases=kinds[kind]))
    return results


def _nonfinite_operators(evidence: Evidence) -> list[CheckResult]:
    guilty = [entry for entry in evidence.operators if entry.nonfinite]
    if not guilty:
        return []
    total = sum(entry.nonfinite for entry in guilty)
    reason = (
        f"non-finite operator outputs={total}, but should be 0 "
        f"[{names([entry.operator for entry in guilty])}]"
    )
    return [result(_CHECK, Verdict.DEFECT, reason, cases=len(guilty))]


def _scores(evidence: Evidence) -> list[CheckResult]:
    """Numbers that no comparison may be made of."""
    results = []
    drift = evidence.drift
    if drift is not None:
        repeated = [case for case, n in Counter(drift.cases).items() if n > 1]
        if repeated:
            reason = f"case ids that stand twice={len(repeated)}, but should be 0"
            results.append(
                result(_CHECK, Verdict.ERROR, f"{reason} [{names(repeated)}]")
            )
        if not np.isfinite(drift.reference_sq).all():
            reason = "reference outputs are not finite, but should be: record it anew"
            results.append(result(_CHECK, Verdict.ERROR, reason))
        broken = [
            case
            for case, error in zip(drift.cases, drift.error_sq, strict=True)
            if not math.isfinite(error)
        ]
        if broken and not evidence.anomalies:
            reason = (
                f"cases whose distance is not finite={len(broken)}, but should be 0 "
                f"[{names(broken)}]"
            )
            results.append(result(_CHECK, Verdict.DEFECT, reason, cases=len(broken)))
    for metric in evidence.metrics:
        bad = int(np.isnan(metric.values).sum())
        if bad:
            reason = f"{metric.name} is NaN in {bad} cases, but should be in none"
            results.append(result(_CHECK, Verdict.DEFECT, reason, cases=bad))
    return results
