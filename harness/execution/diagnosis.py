"""Looking for the cause while the failing session is still loaded."""

from __future__ import annotations

import dataclasses
import math
from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from typing import Any, Final

import numpy as np

from harness.backends.protocol import Session
from harness.compare.operator_evidence import OperatorEvidence
from harness.diagnose import (
    FLUSHED,
    UNKNOWN,
    Call,
    Diagnosis,
    Observation,
    confirm,
    diagnose,
    heat_map,
    keep,
)
from harness.execution.cases_run import (
    batches,
    moderate,
    run_cases,
    watched_batches,
)
from harness.execution.jobs import TargetJob, TargetRun
from harness.execution.loaded import LoadedSuite
from harness.judge.checks.explained import expected_energy
from harness.judge.checks.flushed import flushed_p_value
from harness.judge.levels import ALPHA
from harness.judge.statistics.quadratic import energy_p_value
from harness.judge.types import Judgement
from harness.models.types import Case, Operator
from harness.schemes.apply import plan_one
from harness.schemes.checkpoint import with_stored_bias

Array = np.ndarray[Any, np.dtype[Any]]

#: Operators whose cause is looked for: the first executed and the worst of the others.
_LOOKED_AT: Final = 2
#: Operators of the same shape, nearest in the network, that one could be confused with.
_OTHERS: Final = 6
#: Elements of inputs and outputs that are kept to determine a weight: 2,304 rows of
#: 1,536 inputs and as many outputs.
_MANY: Final = 8_000_000


def with_diagnosis(
    judgement: Judgement, found: Sequence[Mapping[str, Any]]
) -> Judgement:
    """A failing judgement with its guilty operators' causes; others as they are.

    Args:
        judgement: of the target.
        found: `Diagnosis.as_dict` of what its worker found.
    """
    guilty = {entry.name for entry in judgement.operators if entry.guilty}
    causes = tuple(entry for entry in found if entry["operator"] in guilty)
    if not judgement.verdict.fails or not causes:
        return judgement
    return dataclasses.replace(judgement, diagnosis=causes)


def suspects(entries: Sequence[OperatorEvidence]) -> list[OperatorEvidence]:
    """Operators that noise cannot explain, in order of execution."""
    level = _level(entries)
    return [
        entry
        for entry in entries
        if energy_p_value(entry.residual_sq, expected_energy(entry)) <= level
        or _is_flushed(entry, level)
    ]


def _level(entries: Sequence[OperatorEvidence]) -> float:
    return ALPHA / max(1, len(entries))


def _is_flushed(entry: OperatorEvidence, level: float) -> bool:
    return any(flushed_p_value(part) <= level for part in entry.flushed)


def diagnose_operators(
    job: TargetJob, suite: LoadedSuite, session: Session, result: TargetRun
) -> tuple[Diagnosis, ...]:
    """The cause of the first wrong operator, and of the worst one.

    The cases that were checked are run twice more, watched.
    """
    found = suspects(result.operators)
    if not found:
        return ()
    worst = max(found, key=_beyond)
    names = list(dict.fromkeys([found[0].operator, worst.operator]))[:_LOOKED_AT]
    assert result.arithmetic is not None  # sanity check
    groups = watched_batches(suite.cases, job.capture_cases, job.suite.batch)
    groups = groups[: result.watched]
    watched = [entry.operator for entry in result.operators]
    first = _watch(job, suite, session, groups, watched, names)
    second = _watch(job, suite, session, groups, watched, names)
    by_name = {operator.name: operator for operator in suite.operators}
    shown = _shown(session, result, names)
    level = _level(result.operators)
    flushed = {entry.operator for entry in found if _is_flushed(entry, level)}
    results = []
    for name in names:
        seen = Observation(
            operator=with_stored_bias(job.scheme, by_name[name]),
            scheme=job.scheme,
            calls=keep(first[name]),
            arithmetic=result.arithmetic,
            others=tuple(_others(by_name[name], suite.operators, job)),
            shown=shown.get(name),
        )
        told = FLUSHED if name in flushed else ""
        results.append(
            _diagnosed(job, suite, session, watched, seen, second[name], told)
        )
    return tuple(results)


def _shown(
    session: Session, result: TargetRun, names: Sequence[str]
) -> dict[str, Array]:
    """The weights that the session holds in place of the right ones, where it says."""
    wrong = {w.operator for w in result.weights if w.differing or w.nonfinite_scales}
    if not wrong & set(names):
        return {}
    weights = getattr(session, "artifact")().weights  # noqa: B009 - not every session's
    decoded = {name: weights[name].decoded for name in names if name in wrong}
    return {name: w for name, w in decoded.items() if w is not None}


def _diagnosed(  # noqa: PLR0917 - what looking again needs
    job: TargetJob,
    suite: LoadedSuite,
    session: Session,
    watched: Collection[str],
    seen: Observation,
    again: Sequence[Call],
    told: str,
) -> Diagnosis:
    """The cause, looked for in more calls where the first do not settle it.

    One that a check has told already is looked for first, and is it if it is proven.

    The verdict stands without a cause: a search that fails is a fact of the diagnosis,
    never the end of the run.
    """
    try:
        known = confirm(seen, told) if told else None
        if known is not None and known.after <= known.limit:
            return dataclasses.replace(known, heat=heat_map(seen))
        entry = diagnose(seen, again)
        if entry.cause == UNKNOWN and _rows(seen) < _wanted(seen):
            entry = _with_more(job, suite, session, watched, seen) or entry
        return dataclasses.replace(entry, heat=heat_map(seen))
    except Exception as error:  # noqa: BLE001 - see above
        before = seen.drift(seen.exact)
        return Diagnosis(
            operator=seen.operator.name,
            cause=UNKNOWN,
            detail=f"the search for a cause failed: {error}",
            confidence=0.0,
            before=before,
            after=before,
            limit=0.0,
            facts=(f"the search for a cause failed: {type(error).__name__}: {error}",),
        )


def _wanted(seen: Observation) -> float:
    """Rows that determine every weight of an operator."""
    return 1.5 * seen.operator.reduction


def _rows(seen: Observation) -> int:
    """Vectors over output channels that were observed."""
    total = sum(call.y.size for call in seen.calls)
    return int(total // seen.operator.weight.shape[0])


def _with_more(
    job: TargetJob,
    suite: LoadedSuite,
    session: Session,
    watched: Collection[str],
    seen: Observation,
) -> Diagnosis | None:
    """Look again with as many calls as determine the operator's weight."""
    name = seen.operator.name
    calls: list[Call] = []
    per_row = seen.operator.weight.shape[0]
    rows = 0
    for group in batches(moderate(suite.cases), job.suite.batch):
        found = _watch(job, suite, session, [group], watched, [name], None)[name]
        calls.extend(found)
        rows += sum(call.y.size for call in found) // per_row
        if rows >= _wanted(seen):
            break
    if rows < _wanted(seen):
        return None
    numbered = [
        dataclasses.replace(call, index=index) for index, call in enumerate(calls)
    ]
    return diagnose(dataclasses.replace(seen, calls=keep(numbered, _MANY)))


def _beyond(entry: OperatorEvidence) -> float:
    """How far beyond what is expected, in energy."""
    expected = expected_energy(entry)
    return entry.residual_sq / expected if expected > 0 else math.inf


def _watch(  # noqa: PLR0917 - what a run of cases needs
    job: TargetJob,
    suite: LoadedSuite,
    session: Session,
    groups: Sequence[Sequence[Case]],
    watched: Collection[str],
    names: Collection[str],
    steps: int | None = 3,
) -> dict[str, list[Call]]:
    """Calls of some operators; all are watched, as they were when they were judged."""
    calls: defaultdict[str, list[Call]] = defaultdict(list)

    def on_capture(name: str, x: Array, y: Array) -> None:
        if name in names:
            calls[name].append(Call(x.copy(), y.copy(), len(calls[name])))

    for group in groups:
        run_cases(
            session,
            suite.model,
            group,
            batch=job.suite.batch,
            capture=watched,
            on_capture=on_capture,
            capture_steps=steps,
        )
    return calls


def _others(
    operator: Operator, operators: Sequence[Operator], job: TargetJob
) -> list[Operator]:
    """Those of the same shape and plan, the nearest first."""
    place = next(i for i, o in enumerate(operators) if o.name == operator.name)
    plan = plan_one(job.scheme, operator)
    same = [
        (abs(index - place), index)
        for index, other in enumerate(operators)
        if index != place
        and other.weight.shape == operator.weight.shape
        and plan_one(job.scheme, other) == plan
    ]
    return [operators[index] for _, index in sorted(same)[:_OTHERS]]
