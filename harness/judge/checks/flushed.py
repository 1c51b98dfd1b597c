"""Are subnormal numbers flushed to zero where the scheme keeps them?

Part of the check `explained`. The hypothesis that is tested is that less than half of
what flushing would take away is missing, or half more than all of it: a faithful
backend stands at 0, one that flushes at 1. An operator that is wrong in another way may
stand anywhere, so it is asked only where flushing accounts for most of the residual.

Adding a number to a sum loses it where it is less than half a unit of the sum's last
place, so a faithful backend may lose small products as well. Roundings are then larger
than all of them together, for each of K additions has one: only where what would be
missing has at least the energy that theory expects of roundings is it asked for.
"""

from __future__ import annotations

import math
from typing import Final

from harness.compare.operator_evidence import Flushed, OperatorEvidence
from harness.judge.evidence import Evidence
from harness.judge.levels import Levels
from harness.judge.outcome import Outcome, names, result
from harness.judge.types import Measurement, Verdict

_CHECK: Final = "explained"
#: Shares between which all is missing, give or take half of it.
_FROM: Final = 0.5
_TO: Final = 1.5
_ACCOUNTED: Final = 0.5
#: Output vectors below which a mean of them is not yet Student's t.
_LEAST: Final = 8


def flushed(evidence: Evidence, levels: Levels) -> Outcome:
    """`defect` where operators compute as if subnormal numbers were zero."""
    entries = [
        (operator, entry)
        for operator in evidence.operators
        for entry in operator.flushed
        if _tells(entry)
    ]
    if not entries:
        return Outcome()
    tests = {_test(o, e): flushed_p_value(e) for o, e in entries}
    guilty = [(o, e) for o, e in entries if is_flushed(o, e, levels)]
    operator, worst = max(guilty or entries, key=lambda found: found[1].share)
    level = levels.of(_test(operator, worst))
    reach = _quantile(worst, level) * worst.error
    measurement = Measurement(
        name="flushed",
        value=worst.share,
        low=worst.share - reach,
        high=worst.share + reach,
        budget=_FROM,
        budget_source="a faithful backend has 0, one that flushes 1",
        cases=len(entries),
    )
    if not guilty:
        return Outcome(tests=tests, measurements=(measurement,))
    others = sorted({o.operator for o, _ in guilty} - {operator.operator})
    more = f"; also {names(others)}" if others else ""
    reason = (
        f"share of the subnormal numbers' part that is missing={worst.share:.3g}, but "
        f"should be 0 [operator {operator.operator}: its {worst.what} below the "
        f"smallest normal number count as zero; standard error {worst.error:.2g}{more}]"
    )
    found = result(
        _CHECK,
        Verdict.DEFECT,
        reason,
        test="Student's t of the missing share, by output vector",
        alpha=level,
        cases=len(guilty),
        measurement=measurement.name,
    )
    return Outcome(results=(found,), tests=tests, measurements=(measurement,))


def is_flushed(operator: OperatorEvidence, entry: Flushed, levels: Levels) -> bool:
    """Whether more than half is certainly missing."""
    level = levels.of(_test(operator, entry))
    return flushed_p_value(entry) <= level


def flushed_p_value(entry: Flushed) -> float:
    """P-value of "not all is missing, give or take half"; 1: it cannot be told."""
    from scipy.special import stdtr

    if not _tells(entry):
        return 1.0
    inside = min(entry.share - _FROM, _TO - entry.share)
    if entry.error == 0:
        return 0.0 if inside > 0 else 1.0
    return float(stdtr(entry.vectors - 1, -inside / entry.error))


def _tells(entry: Flushed) -> bool:
    enough = entry.vectors >= _LEAST and entry.prominence >= 1
    return enough and entry.accounted >= _ACCOUNTED and math.isfinite(entry.share)


def _test(operator: OperatorEvidence, entry: Flushed) -> str:
    return f"{_CHECK}:{operator.operator}:flushed {entry.what}"


def _quantile(entry: Flushed, level: float) -> float:
    from scipy.special import stdtrit

    return float(-stdtrit(entry.vectors - 1, level))
