"""What a renewal would change, said before anything is written."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from harness.golden.compact import CompactOutput
from harness.golden.store import Golden

#: How much an operator's amax must move to be told: static scales follow it.
_MOVED_AMAX: Final = 0.01


@dataclass(frozen=True, kw_only=True)
class Change:
    """One difference between two goldens."""

    #: Case id; "" for what belongs to the whole golden.
    case: str
    #: Output, behaviour, operator or field of the golden.
    what: str
    #: What was measured: "relative_l2", "max_abs", "answer", "amax", "" for a field.
    metric: str
    before: str
    after: str
    #: How much it moved, for sorting; inf where it is another thing altogether.
    size: float = math.inf

    def __str__(self) -> str:
        place = f"{self.case}: {self.what}" if self.case else self.what
        metric = f" {self.metric}" if self.metric else ""
        return f"{place}{metric}: {self.before} -> {self.after}"


def diff(old: Golden, new: Golden) -> list[Change]:
    """What changes from one golden to another, the largest change of a kind first.

    Dates, reasons, environments and measured noise floors do not count: they differ
    between two recordings of the same thing. They are told after a change that counts.
    """
    changes = [
        *_fields(old, new),
        *_cases(old, new),
        *sorted(_outputs(old, new), key=lambda change: -change.size),
        *_answers(old, new),
        *sorted(_operators(old, new), key=lambda change: -change.size),
    ]
    return [*changes, *_circumstances(old, new)] if changes else []


def _fields(old: Golden, new: Golden) -> Iterator[Change]:
    for name in ("suite", "schema", "model_fingerprint", "cases_fingerprint"):
        before, after = str(getattr(old, name)), str(getattr(new, name))
        if before != after:
            yield Change(
                case="", what=name, metric="", before=before[:24], after=after[:24]
            )
    for key in ("requested", "backend", "exact"):
        before, after = str(old.precision.get(key)), str(new.precision.get(key))
        if before != after:
            what = f"precision.{key}"
            yield Change(case="", what=what, metric="", before=before, after=after)


def _cases(old: Golden, new: Golden) -> Iterator[Change]:
    for case in old.outputs:
        if case not in new.outputs:
            yield Change(
                case=case, what="case", metric="", before="there", after="gone"
            )
    for case in new.outputs:
        if case not in old.outputs:
            yield Change(
                case=case, what="case", metric="", before="none", after="added"
            )


def _outputs(old: Golden, new: Golden) -> Iterator[Change]:
    """Outputs whose bits are others: by how much, and where most."""
    for case in old.outputs:
        if case not in new.outputs:
            continue
        before, after = old.outputs[case], new.outputs[case]
        for output in before:
            if output not in after:
                yield Change(
                    case=case, what=output, metric="", before="there", after="gone"
                )
            elif not _same(before[output], after[output]):
                yield _moved(case, output, before[output], after[output])
        for output in after:
            if output not in before:
                yield Change(
                    case=case, what=output, metric="", before="none", after="added"
                )


def _same(first: CompactOutput, second: CompactOutput) -> bool:
    """Equal kind, dtype, shape and bits."""
    return (
        (first.kind, first.shape, first.dtype)
        == (second.kind, second.shape, second.dtype)
        and set(first.tensors) == set(second.tensors)
        and all(
            first.tensors[role].tobytes() == second.tensors[role].tobytes()
            for role in first.tensors
        )
    )


def _moved(case: str, output: str, old: CompactOutput, new: CompactOutput) -> Change:
    described = [f"{o.kind} {o.dtype}{list(o.shape)}" for o in (old, new)]
    if described[0] != described[1]:
        return Change(
            case=case, what=output, metric="", before=described[0], after=described[1]
        )
    a, b = (o.array.astype(np.float64) for o in (old, new))
    if a.shape != b.shape or not np.array_equal(old.indices, new.indices):
        return Change(
            case=case,
            what=output,
            metric="kept classes",
            before=f"{old.indices.size}",
            after="others",
        )
    with np.errstate(invalid="ignore"):
        error = np.where(a == b, 0.0, np.abs(b - a))
    norm = float(np.linalg.norm(a.ravel()))
    size = float(np.linalg.norm(error.ravel())) / norm if norm > 0 else math.inf
    worst = int(np.nanargmax(error)) if not np.isnan(error).all() else 0
    index = [int(i) for i in np.unravel_index(worst, a.shape)] if a.shape else []
    return Change(
        case=case,
        what=f"{output}{index}",
        metric=f"relative_l2={size:.3g} max_abs={float(error.flat[worst]):.3g}",
        before=f"{float(a.flat[worst]):.6g}",
        after=f"{float(b.flat[worst]):.6g}",
        size=size if math.isfinite(size) else math.inf,
    )


def _answers(old: Golden, new: Golden) -> Iterator[Change]:
    """Answers at the end of the pipeline that are others now."""
    for behaviour in sorted({*old.behaviours, *new.behaviours}):
        before = old.behaviours.get(behaviour, {})
        after = new.behaviours.get(behaviour, {})
        for case in before:
            if case in after and dict(before[case]) != dict(after[case]):
                yield Change(
                    case=case,
                    what=behaviour,
                    metric="answer",
                    before=_answer(before[case]),
                    after=_answer(after[case]),
                )
        if not before or not after:
            yield Change(
                case="",
                what=behaviour,
                metric="cases",
                before=str(len(before)),
                after=str(len(after)),
            )


def _answer(answer: Mapping[str, Any]) -> str:
    right = answer.get("right")
    mark = "" if right is None else f" ({'right' if right else 'wrong'})"
    return f"{answer.get('answer')!r}{mark}"


def _operators(old: Golden, new: Golden) -> Iterator[Change]:
    """Operators whose largest input moved: static scales are made from it."""
    for name in sorted({*old.operators, *new.operators}):
        yield from _outliers(name, old.operators.get(name), new.operators.get(name))
        before = old.operators.get(name, {}).get("amax")
        after = new.operators.get(name, {}).get("amax")
        if before is None or after is None:
            yield Change(
                case="", what=name, metric="amax", before=str(before), after=str(after)
            )
            continue
        size = abs(after - before) / max(abs(before), 1e-300)
        if size > _MOVED_AMAX:
            yield Change(
                case="",
                what=name,
                metric="amax",
                before=f"{before:.6g}",
                after=f"{after:.6g}",
                size=size,
            )


def _outliers(
    name: str, old: Mapping[str, Any] | None, new: Mapping[str, Any] | None
) -> Iterator[Change]:
    """Which channels stand out: a scale a tensor suffers from each of them."""
    if old is None or new is None:
        return
    before, after = (
        {int(channel) for channel, _ in entry["outlier_channels"]}
        if "outlier_channels" in entry
        else None
        for entry in (old, new)
    )
    if before != after:
        shown = ["not kept" if c is None else str(sorted(c)) for c in (before, after)]
        yield Change(
            case="",
            what=name,
            metric="outlier channels",
            before=shown[0],
            after=shown[1],
            size=0.0,
        )


def _circumstances(old: Golden, new: Golden) -> Iterator[Change]:
    """What else is other, and may be why."""
    for name in sorted({*old.environment, *new.environment}):
        before = str(old.environment.get(name, ""))
        after = str(new.environment.get(name, ""))
        if before != after:
            what = f"environment.{name}"
            yield Change(case="", what=what, metric="", before=before, after=after)
    for name in sorted({*old.noise_floor, *new.noise_floor}):
        first, second = old.noise_floor.get(name), new.noise_floor.get(name)
        if first != second:
            what = f"noise_floor.{name}"
            yield Change(
                case="", what=what, metric="", before=str(first), after=str(second)
            )
