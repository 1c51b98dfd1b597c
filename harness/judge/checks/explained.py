"""Does the backend compute what the scheme says?

For every quantized operator, the energy of y - oracle(x) against the energy that
theory expects of accumulation and rounding (and that repetitions measured). The
p-value is the chi-square bound of `statistics.quadratic`, so the limit follows from
alpha, the number of operators and the declared arithmetic alone.
"""

from __future__ import annotations

import math
from typing import Final

from harness.compare.operator_evidence import OperatorEvidence
from harness.judge.checks.explained_paths import explained_paths
from harness.judge.checks.flushed import flushed, is_flushed
from harness.judge.evidence import Evidence
from harness.judge.levels import Levels
from harness.judge.outcome import Outcome, passed, result
from harness.judge.statistics.quadratic import energy_factor, energy_p_value
from harness.judge.types import CheckResult, Measurement, OperatorResult, Verdict

_CHECK: Final = "explained"
_TEST: Final = "chi-square bound on the energy of accumulation noise"


def explained(evidence: Evidence, levels: Levels) -> Outcome:
    """`defect` when noise cannot explain an operator, a path, or the whole model.

    The whole model is judged for weight-only schemes alone: where activations are
    quantized, a last-bit difference flips roundings that grow through the layers.
    """
    tests = {
        f"{_CHECK}:{entry.operator}": energy_p_value(
            entry.residual_sq, expected_energy(entry)
        )
        for entry in evidence.operators
    }
    operators = tuple(
        _operator(evidence, entry, levels) for entry in evidence.operators
    )
    results, measurements = _operators(evidence, operators, levels)
    paths = explained_paths(evidence, levels)
    for part in (flushed(evidence, levels), paths):
        tests.update(part.tests)
        results.extend(part.results)
        measurements.extend(part.measurements)
    whole = _end_to_end(evidence, levels)
    if whole is not None:
        p, measurement, decision = whole
        tests[f"{_CHECK}:end_to_end"] = p
        measurements.append(measurement)
        if decision.verdict is not Verdict.PASS or not results:
            results.append(decision)
    if evidence.uncaptured and not evidence.operators:
        results.append(passed(_CHECK, f"operators not judged: {evidence.uncaptured}"))
    return Outcome(
        results=tuple(results),
        measurements=tuple(measurements),
        operators=operators,
        paths=paths.paths,
        tests=tests,
    )


def expected_energy(entry: OperatorEvidence) -> float:
    """Energy that noise has on average: theory's or what was measured, the larger."""
    return max(entry.explained_sq, entry.measured_sq)


def _unit(entry: OperatorEvidence) -> float:
    """What residuals are measured in: quantization, or the signal where that is 0."""
    return entry.quantization_sq or entry.signal_sq or 1.0


def _operator(
    evidence: Evidence, entry: OperatorEvidence, levels: Levels
) -> OperatorResult:
    factor = energy_factor(levels.of(f"{_CHECK}:{entry.operator}"))
    limit = factor * math.sqrt(expected_energy(entry) / _unit(entry))
    allowed = evidence.budgets.get("unexplained")
    if allowed is not None:
        limit = max(limit, allowed.limit)
    signal = entry.signal_sq
    noise = math.sqrt(entry.quantization_sq / signal) if signal > 0 else 0.0
    return OperatorResult(
        name=entry.operator,
        unexplained=math.sqrt(entry.residual_sq / _unit(entry)),
        limit=limit,
        execution=entry.execution,
        quantization_noise=noise,
        flushed=any(is_flushed(entry, part, levels) for part in entry.flushed),
    )


def _beyond(operator: OperatorResult) -> float:
    """How many times its limit an operator shows; 0 when it shows nothing."""
    if operator.unexplained == 0:
        return 0.0
    return operator.unexplained / operator.limit if operator.limit > 0 else math.inf


def _operators(
    evidence: Evidence, operators: tuple[OperatorResult, ...], levels: Levels
) -> tuple[list[CheckResult], list[Measurement]]:
    """The worst operator speaks for all."""
    if not operators:
        return [], []
    worst = max(operators, key=_beyond)
    guilty = [entry for entry in operators if not _beyond(entry) <= 1]
    allowed = evidence.budgets.get("unexplained")
    source = f"theory: accumulation noise, {levels.family}"
    if allowed is not None and worst.limit == allowed.limit:
        source = allowed.source
    measurement = Measurement(
        name="unexplained",
        value=worst.unexplained,
        low=worst.unexplained,
        high=worst.unexplained,
        budget=worst.limit,
        budget_source=source,
        cases=len(operators),
    )
    shared = {
        "test": _TEST,
        "alpha": levels.of(f"{_CHECK}:{worst.name}"),
        "detectable": worst.limit,
        "cases": len(operators),
        "measurement": "unexplained",
    }
    if not guilty:
        reason = (
            f"{len(operators)} operators within their limits; worst {worst.name}: "
            f"unexplained={worst.unexplained:.3g}, at most {worst.limit:.3g}"
        )
        if evidence.paths_skipped:
            reason += f"; what lies between is unchecked: {evidence.paths_skipped}"
        return [passed(_CHECK, reason, **shared)], [measurement]
    reason = (
        f"unexplained={worst.unexplained:.3g}, but should be at most "
        f"{worst.limit:.3g} [operator {worst.name}; {len(guilty)} of "
        f"{len(operators)} operators beyond their limit; {source}]"
    )
    return [result(_CHECK, Verdict.DEFECT, reason, **shared)], [measurement]


def _end_to_end(
    evidence: Evidence, levels: Levels
) -> tuple[float, Measurement, CheckResult] | None:
    """The target's outputs against the oracle's, for weight-only schemes."""
    end, oracle = evidence.end_to_end, evidence.oracle_drift
    if not evidence.weight_only or end is None or oracle is None or oracle.ratio == 0:
        return None
    expected, source = _expected_share(evidence, oracle.ratio)
    if expected == 0:
        return None
    value = end.ratio / oracle.ratio
    level = levels.of(f"{_CHECK}:end_to_end")
    limit = energy_factor(level) * math.sqrt(expected)
    allowed = evidence.budgets.get("unexplained.end_to_end")
    if allowed is not None and allowed.limit > limit:
        limit, source = allowed.limit, allowed.source
    measurement = Measurement(
        name="unexplained.end_to_end",
        value=value,
        low=value,
        high=value,
        budget=limit,
        budget_source=source,
        cases=len(end.cases),
    )
    shared = {
        "test": _TEST,
        "alpha": level,
        "detectable": limit,
        "cases": len(end.cases),
        "measurement": measurement.name,
    }
    p = energy_p_value(value**2, expected)
    if value <= limit:
        reason = f"unexplained end to end={value:.3g}, at most {limit:.3g}"
        return p, measurement, passed(_CHECK, reason, **shared)
    reason = (
        f"unexplained end to end={value:.3g}, but should be at most {limit:.3g} "
        f"[outputs against the oracle's; {source}]"
    )
    return p, measurement, result(_CHECK, Verdict.DEFECT, reason, **shared)


def _expected_share(evidence: Evidence, oracle_drift: float) -> tuple[float, str]:
    """Energy of accumulation noise at the outputs, relative to quantization's.

    An operator's noise and its quantization error travel the same way to the
    outputs, each operator with a gain nobody knows. Their quotient at the outputs,
    a sum of noises over a sum of errors, is at most the largest quotient of any
    operator. What is not quantized adds what the reference moves by itself.
    """
    floor = (evidence.noise_floor / oracle_drift) ** 2
    shares = [
        expected_energy(entry) / entry.quantization_sq
        for entry in evidence.operators
        if entry.quantization_sq > 0
    ]
    if not shares:
        return floor, "measured noise floor of the reference"
    return floor + max(shares), "theory: accumulation noise, and measured noise floor"
