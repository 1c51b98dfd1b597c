"""Does what lies between the operators compute what the model says?

Norms, attention, sums and activations: what arrived at an operator against what should
have arrived, all operators' outputs given. The noise is what Monte Carlo arithmetic
measured (`schemes.between`); the p-value is the one of operators.
"""

from __future__ import annotations

import math
from typing import Final

from harness.compare.operator_evidence import PathEvidence
from harness.judge.evidence import Evidence
from harness.judge.levels import Levels
from harness.judge.outcome import Outcome, passed, result
from harness.judge.statistics.quadratic import energy_factor, energy_p_value
from harness.judge.types import Measurement, OperatorResult, Verdict

_CHECK: Final = "explained"
_MEASUREMENT: Final = "unexplained.between"
_TEST: Final = "chi-square bound on the energy of Monte Carlo arithmetic"


def explained_paths(evidence: Evidence, levels: Levels) -> Outcome:
    """`defect` when rounding cannot explain what arrives at an operator."""
    if not evidence.paths:
        return Outcome()
    tests = {
        _test(entry): energy_p_value(entry.residual_sq, entry.noise_sq)
        for entry in evidence.paths
    }
    paths = tuple(_path(evidence, entry, levels) for entry in evidence.paths)
    worst = max(paths, key=_beyond)
    guilty = [path for path in paths if path.guilty]
    allowed = evidence.budgets.get(_MEASUREMENT)
    source = f"theory: rounding of every step, {levels.family}"
    if allowed is not None and worst.limit == allowed.limit:
        source = allowed.source
    measurement = Measurement(
        name=_MEASUREMENT,
        value=worst.unexplained,
        low=worst.unexplained,
        high=worst.unexplained,
        budget=worst.limit,
        budget_source=source,
        cases=len(paths),
    )
    shared = {
        "test": _TEST,
        "alpha": levels.of(f"{_CHECK}:{worst.name}"),
        "detectable": worst.limit,
        "cases": len(paths),
        "measurement": _MEASUREMENT,
    }
    if guilty:
        # What goes past the operators, as a residual sum does, takes a fault along: the
        # first path is where it came from.
        first = guilty[0]
        reason = (
            f"unexplained between operators={first.unexplained:.3g}, but should be at "
            f"most {first.limit:.3g} [{first.name}; the first of {len(guilty)} of "
            f"{len(paths)} paths beyond their limit; {source}]"
        )
        decision = result(_CHECK, Verdict.DEFECT, reason, **shared)
    else:
        reason = (
            f"{len(paths)} paths between them within theirs; worst {worst.name}: "
            f"{worst.unexplained:.3g}, at most {worst.limit:.3g}"
        )
        decision = passed(_CHECK, reason, **shared)
    return Outcome(
        results=(decision,), measurements=(measurement,), paths=paths, tests=tests
    )


def _test(entry: PathEvidence) -> str:
    return f"{_CHECK}:{entry.name}"


def _path(evidence: Evidence, entry: PathEvidence, levels: Levels) -> OperatorResult:
    """Relative to what should have arrived."""
    signal = entry.signal_sq or 1.0
    limit = energy_factor(levels.of(_test(entry))) * math.sqrt(entry.noise_sq / signal)
    allowed = evidence.budgets.get(_MEASUREMENT)
    if allowed is not None:
        limit = max(limit, allowed.limit)
    return OperatorResult(
        name=entry.name,
        unexplained=math.sqrt(entry.residual_sq / signal),
        limit=limit,
    )


def _beyond(path: OperatorResult) -> float:
    if path.unexplained == 0:
        return 0.0
    return path.unexplained / path.limit if path.limit > 0 else math.inf
