"""The numbers of a self-test: caught, alarmed, named, and what is missed and why."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

from harness.defects import DEFECTS, Defect
from harness.execution.selftest.causes import right_cause
from harness.execution.selftest.trial import Threshold, Trial
from harness.judge.statistics.paired_binary import share_bounds

#: Chance that an interval misses the true share on one side; 95% in all.
_LEVEL: Final = 0.025


def summary(
    trials: Sequence[Trial],
    thresholds: Sequence[Threshold],
    known: Mapping[str, Defect] = DEFECTS,
) -> dict[str, Any]:
    """Everything that is printed, as plain values.

    A trial that changed nothing (the defect fits nothing, or its condition never held)
    is no miss of the gate; where the condition never held, the cases are at fault, and
    it is listed as a blind spot. Nor is one that changed no more than right backends
    may differ by, caught or not; those are listed too.
    """
    planted = [t for t in trials if t.planting is not None and t.planted]
    controls = [t for t in trials if t.planting is None]
    return {
        "trials": len(trials),
        "planted": len(planted),
        "unfit": sum(bool(t.unfit) for t in trials),
        "caught": _share(planted, lambda t: t.caught),
        "by_severity": {
            severity: {
                level: _share(
                    [t for t in planted if t.severity == severity and t.level == level],
                    lambda t: t.caught,
                )
                for level in ("low", "catalogue", "high")
            }
            for severity in ("catastrophic", "visible", "silent", "conditional")
        },
        "controls": len(controls),
        "alarmed": _share(controls, lambda t: t.caught),
        "alarms": [_line(t) for t in controls if t.caught],
        "operator_right": _share(_single(planted), _right_operator),
        "cause_right": _share(_single(planted), lambda t: bool(right_cause(t))),
        "cause_wrong": _share(
            _single(planted),
            lambda t: right_cause(t) is False and t.confidence >= 0.9,
        ),
        "cause_unknown": _share(_single(planted), lambda t: right_cause(t) is None),
        "missed": [{**_line(t), "why": why(t, known)} for t in planted if not t.caught],
        "tolerated": [_line(t) for t in trials if t.tolerated],
        "misnamed": [_line(t) for t in _single(planted) if not right_cause(t)],
        "blind_spots": blind_spots(trials, known),
        "thresholds": [vars(t) for t in thresholds],
        "matrix": matrix(planted),
    }


def _share(trials: Sequence[Trial], holds: Callable[[Trial], object]) -> dict[str, Any]:
    count = sum(bool(holds(t)) for t in trials)
    share = count / len(trials) if trials else None
    low, high = share_bounds(count, len(trials), _LEVEL)
    return {
        "count": count,
        "of": len(trials),
        "share": share,
        "low": low,
        "high": high,
    }


def _single(planted: Sequence[Trial]) -> list[Trial]:
    """Defects of one operator that the operators themselves were judged guilty of."""
    return [
        t
        for t in planted
        if t.planting is not None
        and t.planting.operator is not None
        and t.caught
        and t.operator
    ]


def _right_operator(trial: Trial) -> bool:
    assert trial.planting is not None  # sanity check
    return trial.operator == trial.planting.operator


def _line(trial: Trial) -> dict[str, Any]:
    return trial.as_dict()


def why(trial: Trial, known: Mapping[str, Defect] = DEFECTS) -> str:
    """Why the gate let a defect through."""
    if trial.verdict == "inconclusive":
        return f"its cases cannot resolve it: {trial.reason}"
    if trial.verdict == "error":
        return f"it could not be run: {trial.reason}"
    if not trial.moved:
        place = "no output moves"
    else:
        place = f"the outputs move by {trial.moved:.2g} of their size"
    defect = known.get(trial.planting.defect) if trial.planting else None
    rare = defect is not None and defect.severity == "conditional"
    return place + (
        "; no case that the operator check looks at meets its condition"
        if rare
        else "; the operator check cannot tell it from rounding"
    )


def blind_spots(
    trials: Sequence[Trial], known: Mapping[str, Defect] = DEFECTS
) -> list[dict[str, str]]:
    """Defects whose condition no case of a suite ever met, with what would meet it."""
    fired: defaultdict[tuple[str, str], list[bool]] = defaultdict(list)
    for trial in trials:
        if trial.planting is not None and trial.fired is not None:
            fired[trial.suite, trial.planting.defect].append(
                trial.fired or trial.caught
            )
    return [
        {"suite": suite, "defect": name, "add": _advice(name, known)}
        for (suite, name), states in sorted(fired.items())
        if not any(states)
    ]


def _advice(name: str, known: Mapping[str, Defect]) -> str:
    """What a suite lacks when a defect never fires in it."""
    defect = known.get(name)
    if defect is None:
        return "a case that meets the defect's condition"
    if defect.needs:
        return defect.needs
    trigger = defect.trigger
    if trigger.length:
        return f"a case of at least {trigger.length} positions"
    if trigger.position:
        return f"a case of more than {trigger.position} positions"
    if trigger.batch:
        return "two cases of the same shape, and a batch of more than one"
    if trigger.magnitude:
        return (
            f"a case with a row {trigger.magnitude:g} times as large as the median row"
        )
    if trigger.calls:
        return "cases of more than one shape, so that there is a second call"
    return f"inputs and weights for which this matters: {defect.summary}"


def matrix(planted: Sequence[Trial]) -> dict[str, dict[str, dict[str, Any]]]:
    """Defect -> target -> how many were caught, by which checks."""
    cells: defaultdict[str, defaultdict[str, list[Trial]]] = defaultdict(
        lambda: defaultdict(list)
    )
    for trial in planted:
        assert trial.planting is not None  # sanity check
        cells[trial.planting.defect][f"{trial.suite}/{trial.target}"].append(trial)
    return {
        defect: {
            target: {
                "caught": sum(t.caught for t in entries),
                "of": len(entries),
                "checks": dict(Counter(t.check for t in entries if t.caught)),
                "verdicts": dict(Counter(t.verdict for t in entries)),
            }
            for target, entries in sorted(row.items())
        }
        for defect, row in cells.items()
    }
