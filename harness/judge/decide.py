"""From evidence to verdicts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from harness.judge.acknowledge import acknowledge
from harness.judge.checks import checks_for
from harness.judge.evidence import Evidence, Failure
from harness.judge.levels import ALPHA, FALSE_DISCOVERY_RATE, Levels, Mode, run_levels
from harness.judge.outcome import Outcome, result
from harness.judge.statistics.sequential import spent_alpha
from harness.judge.types import CheckResult, Judgement, Verdict

#: What the one command to look closer says for a run that has no name yet.
_RUN: Final = "RUN"


def judge(evidence: Evidence, *, run_id: str = _RUN, alpha: float = ALPHA) -> Judgement:
    """The verdict on one target, its tests held as a family.

    Args:
        evidence: all that was measured.
        run_id: run or folder that the suggested command names.
        alpha: chance of a false alarm over all tests of this target.
    """
    return judge_run([evidence], run_id=run_id, alpha=alpha)[0]


def judge_run(
    evidences: Sequence[Evidence],
    *,
    mode: Mode = "gate",
    run_id: str = _RUN,
    alpha: float | None = None,
    night: int | None = None,
) -> tuple[Judgement, ...]:
    """The verdicts on all targets of a run, all their tests held as one family.

    Args:
        evidences: one a target; the order is kept.
        mode: "gate" holds the chance of any false alarm below `alpha`; "nightly" the
            expected share of false alarms among the alarms.
        run_id: run or folder that the suggested command names.
        alpha: the error to hold; None: 1% for a gate, 5% for a nightly.
        night: number of the look, from 1, of a run that is repeated every night: it
            spends its share of `alpha`, so that all nights together hold it.
    """
    if alpha is None:
        alpha = ALPHA if mode == "gate" else FALSE_DISCOVERY_RATE
    if night is not None:
        alpha = spent_alpha(alpha, night)
    alone = Levels(alpha=alpha)
    # Once for the p-values, once more at the levels that follow from all of them.
    tests = [_tests(entry, alone) for entry in evidences]
    levels = run_levels(tests, mode=mode, alpha=alpha)
    return tuple(
        _judge(entry, level, run_id)
        for entry, level in zip(evidences, levels, strict=True)
    )


def _tests(evidence: Evidence, levels: Levels) -> dict[str, float]:
    if evidence.failure is not None:
        return {}
    found: dict[str, float] = {}
    for check in checks_for(evidence).values():
        found.update(check(evidence, levels).tests)
    return found


def _judge(evidence: Evidence, levels: Levels, run_id: str) -> Judgement:
    outcomes: list[Outcome] = []
    if evidence.failure is not None:
        results: tuple[CheckResult, ...] = (_failure(evidence.failure),)
    else:
        outcomes = [check(evidence, levels) for check in checks_for(evidence).values()]
        results = acknowledge(evidence, outcomes)
    verdict, reason = _verdict(results)
    name = f"{evidence.suite}/{evidence.backend}/{evidence.scheme}"
    return Judgement(
        suite=evidence.suite,
        backend=evidence.backend,
        scheme=evidence.scheme,
        verdict=verdict,
        reason=reason,
        checks=results,
        measurements={
            entry.name: entry for outcome in outcomes for entry in outcome.measurements
        },
        operators=tuple(entry for outcome in outcomes for entry in outcome.operators),
        paths=tuple(entry for outcome in outcomes for entry in outcome.paths),
        timings=evidence.timings,
        required=evidence.required,
        execution=evidence.execution,
        command=f"quantharness explain {run_id} {name}",
    )


def _failure(failure: Failure) -> CheckResult:
    """A run that did not come to an end, before any check."""
    return result("artifact", Verdict(failure.kind), failure.message, test="none")


def _verdict(results: Sequence[CheckResult]) -> tuple[Verdict, str]:
    """The first that fails; else the first that could not be judged; else the rest.

    Garbage (`error`) keeps its place among the failures: what follows from it, an
    infinite distance, must not name the verdict.
    """
    failing = [r for r in results if r.verdict.fails or r.verdict is Verdict.ERROR]
    for group in (
        failing,
        [r for r in results if r.verdict is Verdict.UNSUPPORTED],
        [r for r in results if r.verdict is Verdict.INCONCLUSIVE],
        [r for r in results if r.verdict is Verdict.CHANGED],
    ):
        if group:
            return group[0].verdict, group[0].reason
    reasons = [r.reason for r in results if r.reason and r.check in _TOLD]
    return Verdict.PASS, "; ".join(reasons)


#: Checks whose reason a pass tells.
_TOLD: Final = frozenset({"explained", "distance", "behaviour"})
