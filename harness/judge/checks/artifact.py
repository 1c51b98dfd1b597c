"""Is it really quantized, and as the scheme says?"""

from __future__ import annotations

import math
import re
from typing import Final

from harness.compare.operator_evidence import WeightEvidence
from harness.judge.evidence import Evidence
from harness.judge.levels import Levels
from harness.judge.outcome import Outcome, names, passed, result
from harness.judge.statistics.quadratic import energy_factor
from harness.judge.types import CheckResult, Measurement, Verdict

_CHECK: Final = "artifact"
#: Unit roundoff of the float32 in which scales and quotients are computed.
_ROUNDOFF: Final = 2.0**-24
#: Roundings that two right ways to the same code may differ by: one for the scale,
#: one for its reciprocal, one for the quotient.
_ROUNDINGS: Final = 3


def artifact(evidence: Evidence, levels: Levels) -> Outcome:
    """Judge what was built before anything of it was run.

    `vacuous` when no case was compared or nothing shows that anything was quantized;
    `defect` when a weight is of another format than the scheme says, has scales that
    cannot be, decodes to other numbers, or was changed although it is left alone.
    """
    nothing = _vacuous(evidence)
    if nothing:
        return Outcome(results=(result(_CHECK, Verdict.VACUOUS, nothing),))
    results: list[CheckResult] = []
    shown = [w for w in evidence.weights if w.expected]
    worst = _worst(evidence, shown, levels)
    problems = [(w.operator, _problem(w)) for w in _visible(evidence)]
    problems = [(operator, problem) for operator, problem in problems if problem]
    if problems:
        reason = problems[0][1]
        if len(problems) > 1:
            others = names([operator for operator, _ in problems[1:]])
            reason += f" [{len(problems)} operators: also {others}]"
        results.append(result(_CHECK, Verdict.DEFECT, reason, cases=len(problems)))
    results += _activations(evidence)
    if worst is not None and worst.budget is not None and worst.high > worst.budget:
        weight = _by_slack(shown, levels)[0]
        results.append(
            result(
                _CHECK,
                Verdict.DEFECT,
                f"weight of {weight.operator}: unexplained={worst.value:.3g}, but "
                f"should be at most {worst.budget:.2g} [decoded {weight.expected} "
                f"against the exact codes; {worst.budget_source}]",
                test="chi-square bound on ambiguous codes",
                alpha=levels.alpha,
                measurement=worst.name,
            )
        )
    else:
        results += _codes(evidence, shown, levels)
    if not results:
        formats = sorted({w.found for w in shown}) or ["activations"]
        count = len(shown) or len(evidence.activations_found)
        results.append(passed(_CHECK, f"{count} operators hold {names(formats)}"))
    return Outcome(
        results=tuple(results), measurements=() if worst is None else (worst,)
    )


def _vacuous(evidence: Evidence) -> str:
    """Why a pass would say nothing; empty when it would say something."""
    drift = evidence.drift
    if drift is None or not drift.cases:
        return "cases compared=0, but should be at least 1 [no outputs of the target]"
    if not float(drift.reference_sq.sum()) > 0:
        return "reference outputs=0 throughout, but something should be compared"
    if not _quantized(evidence):
        return (
            "operators shown to be quantized=0, but should be at least 1 [neither a "
            "stored weight, a quantized input nor an output shows the scheme "
            f"{evidence.scheme}]"
        )
    oracle = evidence.oracle_drift
    if oracle is not None and oracle.ratio > 0 and drift.ratio == 0:
        return (
            f"drift=0, but should be near {oracle.ratio:.3g} [the outputs are the "
            "reference's to the last bit: nothing was quantized]"
        )
    return ""


def _quantized(evidence: Evidence) -> bool:
    """Whether a stored weight, a quantized input or an output shows the scheme."""
    if evidence.activations_found or any(
        w.expected and w.found for w in evidence.weights
    ):
        return True
    # Within half the way from the oracle to full precision, an output is certainly
    # nearer to the oracle: an unquantized one stands at the whole way, give or take
    # its roundings.
    if any(o.residual_sq < o.quantization_sq / 4 for o in evidence.operators):
        return True
    drift, oracle = evidence.drift, evidence.oracle_drift
    if evidence.operators or evidence.end_to_end is None:
        return False
    if drift is None or oracle is None:
        return False
    # Nothing shows inside: the outputs must have moved as the scheme moves them.
    return 0 < oracle.ratio / 2 < drift.ratio


def _visible(evidence: Evidence) -> tuple[WeightEvidence, ...]:
    """The weights to judge: a backend that shows none is judged by its outputs."""
    if evidence.operators and not any(w.found for w in evidence.weights):
        return tuple(w for w in evidence.weights if not w.expected)
    return evidence.weights


def _problem(weight: WeightEvidence) -> str:
    """What is certainly wrong with one weight; empty when nothing is."""
    where = f"weight of {weight.operator}"
    if weight.altered:
        return (
            f"{where}={weight.found or 'other values'}, but should be untouched "
            "[the scheme leaves this operator alone]"
        )
    if weight.expected and weight.found != weight.expected:
        return (
            f"{where}={weight.found or 'not quantized'}"
            f"{f' stored as {weight.stored_as}' if weight.stored_as else ''}, "
            f"but should be {weight.expected}"
        )
    for count, kind in (
        (weight.nonfinite_scales, "NaN or Inf"),
        (weight.unusable_scales, "zero or negative"),
    ):
        if count:
            return f"{where}: {kind} scales={count}, but should be 0"
    if weight.unexplained is not None and not math.isfinite(weight.unexplained):
        return f"{where}: unexplained={weight.unexplained}, but should be finite"
    return ""


def _activations(evidence: Evidence) -> list[CheckResult]:
    """Operators whose input should be quantized and is not; only if inputs show."""
    if not evidence.weights and not evidence.activations_found:
        return []
    missing = sorted(
        set(evidence.activations_expected) - set(evidence.activations_found)
    )
    extra = sorted(set(evidence.activations_found) - set(evidence.activations_expected))
    found = []
    if missing:
        reason = (
            f"operators with quantized input={len(evidence.activations_found)}, but "
            f"should be {len(evidence.activations_expected)} [missing {names(missing)}]"
        )
        found.append(result(_CHECK, Verdict.DEFECT, reason, cases=len(missing)))
    if extra:
        reason = (
            f"quantized input of {names(extra)}=yes, but should be no "
            f"[{evidence.scheme} leaves it alone]"
        )
        found.append(result(_CHECK, Verdict.DEFECT, reason, cases=len(extra)))
    return found


def code_span(format_name: str) -> float:
    """Steps that the largest code is away from zero, at its own step size.

    2**(m+1) for a float of m mantissa bits, 2**(n-1) for an integer of n bits; other
    names get the largest, 128.
    """
    found = re.search(r"e\d+m(\d)", format_name)
    if found:
        return 2.0 ** (int(found.group(1)) + 1)
    if format_name in {"mxfp4", "nvfp4", "nf4"}:
        return 4.0 if format_name != "nf4" else 16.0
    found = re.search(r"int(\d+)", format_name)
    return 2.0 ** (int(found.group(1)) - 1) if found else 128.0


def weight_limit(weight: WeightEvidence, level: float) -> float:
    """Unexplained share that right arithmetic in another order can leave in a weight.

    Such a code (see `code_limit`) is one step off, against sqrt(1/12) of a step for
    quantization itself: k of n codes make sqrt(12 k / n). Without the number of
    elements the mean share takes k's place, with the factor that any noise of known
    energy is allowed.
    """
    span = code_span(weight.expected)
    decoding = (_ROUNDINGS * _ROUNDOFF * span) ** 2 * 12
    if not weight.elements:
        share = 2 * span * _ROUNDINGS * _ROUNDOFF
        return energy_factor(level) * math.sqrt(12 * share + decoding)
    count = code_limit(weight, level)
    return math.sqrt(12 * count / weight.elements) + energy_factor(level) * math.sqrt(
        decoding
    )


def code_limit(weight: WeightEvidence, level: float) -> int:
    """How many codes may be others than the exact ones where arithmetic is right.

    Two right quotients differ by a few roundings of float32, so a value that lies as
    near to the middle between two codes may take either. Their number is Poisson, its
    mean from the share of a step that the roundings cover.
    """
    from scipy.special import pdtrik

    share = 2 * code_span(weight.expected) * _ROUNDINGS * _ROUNDOFF
    count = float(pdtrik(1 - level, weight.elements * share))
    return max(0, math.ceil(count)) if math.isfinite(count) else 0


def _codes(
    evidence: Evidence, shown: list[WeightEvidence], levels: Levels
) -> list[CheckResult]:
    """Weights with more wrong codes than rounding leaves open.

    The energy of an error says little of small blocks beside large ones; a code is
    right or wrong whatever its scale. Where a budget allows an energy, codes differ
    with reason, and the energy alone is judged.
    """
    if "unexplained.weights" in evidence.budgets:
        return []
    level = levels.alpha / max(1, len(shown))
    wrong = [
        (weight, limit)
        for weight in shown
        if weight.differing
        and weight.elements
        and weight.differing > (limit := code_limit(weight, level))
    ]
    if not wrong:
        return []
    weight, limit = max(
        wrong, key=lambda entry: (entry[0].differing or 0) / (entry[1] + 1)
    )
    return [
        result(
            _CHECK,
            Verdict.DEFECT,
            f"weight of {weight.operator}: codes that are not the exact ones="
            f"{weight.differing}, but should be at most {limit} [of "
            f"{weight.elements}; theory: float32 roundings at code boundaries]",
            cases=len(wrong),
            test="Poisson bound on ambiguous codes",
            alpha=levels.alpha,
        )
    ]


def _by_slack(shown: list[WeightEvidence], levels: Levels) -> list[WeightEvidence]:
    """Weights with a number, the one furthest beyond its limit first."""
    level = levels.alpha / max(1, len(shown))
    usable = [
        w for w in shown if w.unexplained is not None and math.isfinite(w.unexplained)
    ]
    return sorted(
        usable, key=lambda w: (w.unexplained or 0.0) / weight_limit(w, level)
    )[::-1]


def _worst(
    evidence: Evidence, shown: list[WeightEvidence], levels: Levels
) -> Measurement | None:
    """The weight that is furthest from its exact codes, relative to its limit."""
    ranked = _by_slack(shown, levels)
    if not ranked:
        return None
    weight = ranked[0]
    assert weight.unexplained is not None  # sanity check
    budget = evidence.budgets.get("unexplained.weights")
    limit = weight_limit(weight, levels.alpha / len(shown))
    source = "theory: float32 roundings at code boundaries"
    if budget is not None and budget.limit > limit:
        limit, source = budget.limit, budget.source
    return Measurement(
        name="unexplained.weights",
        value=weight.unexplained,
        low=weight.unexplained,
        high=weight.unexplained,
        budget=limit,
        budget_source=source,
        cases=len(shown),
    )
