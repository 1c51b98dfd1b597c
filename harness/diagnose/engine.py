"""From an observation to a cause: every candidate is put into the oracle and tried."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from harness.diagnose import estimates, inputs, outputs, weights
from harness.diagnose.conditions import Condition, conditions, wrong_elements
from harness.diagnose.observation import Call, Observation, squared_difference
from harness.diagnose.types import ANOTHER_WEIGHT, UNKNOWN, Cause, Diagnosis
from harness.errors import NumericsError
from harness.judge.statistics.quadratic import energy_factor

Array = np.ndarray[Any, np.dtype[Any]]
#: What a candidate makes of an observation: its detail there, and every output.
Predict = Callable[[Observation], tuple[str, Sequence[Array]]]

#: A candidate names the cause when what it leaves is at most this share of the drift:
#: 99% of the energy. What leaves more explains something else beside.
_NAMED: Final = 0.1
#: It proves the cause when what it leaves is noise, or this share of the drift.
_PROVEN: Final = 0.02
#: Two candidates whose remainders differ by less than this cannot be told apart.
_ALIKE: Final = 1.5
#: Chance of noise beyond the limit.
_LEVEL: Final = 1e-4
#: Rows that every candidate is first tried on; those that do best see all of them.
_ROWS: Final = 192
_FINALISTS: Final = 6


@dataclass(frozen=True, eq=False)
class _Try:
    name: str
    detail: str
    fitted: int
    condition: Condition
    after: float
    #: Order among the candidates: what is looked for first is simpler.
    rank: int
    predict: Predict


def diagnose(seen: Observation, again: Sequence[Call] = ()) -> Diagnosis:
    """What is wrong with an operator that noise cannot explain.

    Args:
        seen: calls of the operator.
        again: the same calls once more, to see what does not repeat.
    """
    before = seen.drift(seen.exact)
    limit = energy_factor(_LEVEL) * math.sqrt(_noise(seen) / seen.unit)
    facts = tuple(_facts(seen))
    unstable = _unstable(seen, again)
    if unstable:
        return Diagnosis(
            operator=seen.operator.name,
            cause="not repeatable",
            detail=unstable,
            confidence=0.99,
            before=before,
            after=before,
            limit=limit,
            facts=facts,
        )
    rules = conditions(seen)
    tries = _finalists(seen, rules)
    tries += _estimated(seen, rules, min((t.after for t in tries), default=before))
    tries.sort(key=lambda t: t.after)
    best = _simplest(_telling(seen, tries), limit)
    return _diagnosis(best, tries, _Drift(seen.operator.name, before, limit, facts))


def confirm(seen: Observation, cause: str) -> Diagnosis:
    """The proof of a cause that a check has told already.

    For what is smaller than the noise as a whole, and known element by element: there
    every candidate leaves noise, and none could be told from another.

    Args:
        seen: calls of the operator.
        cause: name of its candidates; the one that leaves least is the cause.
    """
    before = seen.drift(seen.exact)
    detail, after = "", before
    for name, _, predict in _all(seen):
        if name == cause:
            told, predicted = predict(seen)
            left = seen.drift(predicted)
            if not detail or left < after:
                detail, after = told, left
    return Diagnosis(
        operator=seen.operator.name,
        cause=cause,
        detail=detail,
        confidence=0.99,
        before=before,
        after=after,
        limit=energy_factor(_LEVEL) * math.sqrt(_noise(seen) / seen.unit),
        facts=tuple(_facts(seen)),
    )


def _noise(seen: Observation) -> float:
    """What rounding may leave of the right candidate, sum of squares.

    Rounding errors are relative: an output that is a thousand times too large has a
    thousand times the errors, and no candidate can come nearer than that.
    """
    found = right = 0.0
    for call, exact in zip(seen.calls, seen.exact, strict=True):
        usable = np.isfinite(call.y)
        if call.y.shape == exact.shape:
            found += float(np.square(call.y[usable].astype(np.float64)).sum())
            right += float(np.square(exact[usable]).sum())
    return seen.noise * max(1.0, found / right if right > 0 else 1.0)


def _unstable(seen: Observation, again: Sequence[Call]) -> str:
    """Whether an input gave two outputs."""
    worst = 0.0
    for first, second in zip(seen.calls, again, strict=False):
        alike = np.array_equal(first.x, second.x, equal_nan=True)
        if not alike or first.y.shape != second.y.shape:
            continue
        worst = max(worst, squared_difference(first.y, second.y))
    # A NaN in an input makes the noise NaN; what is the same twice is still the same.
    if worst == 0 or worst <= 100 * seen.noise:
        return ""
    return "the same input gave two outputs"


def screen(seen: Observation, masks: Sequence[Array]) -> tuple[Observation, list[int]]:
    """The calls with few rows that are wrong, and which they were."""
    sizes = [call.y.size // max(call.y.shape[-1], 1) for call in seen.calls]
    wrong = [bool(mask.any()) for mask in masks]
    order = sorted(range(len(sizes)), key=lambda i: (not wrong[i], sizes[i]))
    chosen: list[int] = []
    rows = 0
    for index in order:
        if chosen and rows + sizes[index] > _ROWS:
            continue
        chosen.append(index)
        rows += sizes[index]
    chosen.sort()
    part = dataclasses.replace(seen, calls=tuple(seen.calls[i] for i in chosen))
    return part, chosen


def _all(seen: Observation) -> Iterator[tuple[str, int, Predict]]:
    """Every candidate without a fitted weight, the simplest kind first."""
    count: dict[str, int] = {}
    for name, _, fitted, _ in outputs.candidates(seen):
        yield name, fitted, _output_of(name, count.get(name, 0))
        count[name] = count.get(name, 0) + 1
    for name, detail, weight in weights.candidates(seen):
        yield name, 0, _weight_of(detail, weight)
    for name, detail, change in inputs.candidates(seen):
        yield name, 0, _input_of(detail, change)


def _output_of(name: str, number: int) -> Predict:
    """The n-th candidate of a name; its numbers are fitted to each observation."""

    def predict(seen: Observation) -> tuple[str, Sequence[Array]]:
        same = [entry for entry in outputs.candidates(seen) if entry[0] == name]
        if number >= len(same):
            return "", seen.exact
        return same[number][1], same[number][3]()

    return predict


def _weight_of(detail: str, weight: Array) -> Predict:
    return lambda seen: (detail, [seen.output(x, weight) for x in seen.entries])


def _input_of(detail: str, change: Callable[[Array], Array]) -> Predict:
    return lambda seen: (
        detail,
        [seen.output(change(call.x), seen.weight) for call in seen.calls],
    )


def _masked(
    seen: Observation, predicted: Sequence[Array], masks: Sequence[Array]
) -> Sequence[Array]:
    """The candidate where the condition holds, the oracle elsewhere."""
    return [
        np.where(mask, wanted, exact) if wanted.shape == exact.shape else wanted
        for wanted, exact, mask in zip(predicted, seen.exact, masks, strict=True)
    ]


def _finalists(seen: Observation, rules: Sequence[Condition]) -> list[_Try]:
    """The best candidates of all, tried on everything that was observed."""
    part, chosen = screen(seen, wrong_elements(seen))
    tries = []
    for rank, (name, fitted, predict) in enumerate(_all(part)):
        try:
            with np.errstate(all="ignore"):
                detail, predicted = predict(part)
        except NumericsError:
            # Another format has no zero points, another scale no number: what cannot
            # be computed is not what was computed.
            continue
        for rule in rules:
            masks = [rule.masks[i] for i in chosen]
            after = part.drift(_masked(part, predicted, masks))
            tries.append(_Try(name, detail, fitted, rule, after, rank, predict))
    tries.sort(key=lambda t: (t.after, t.fitted, bool(t.condition.words), t.rank))
    best: list[_Try] = []
    seen_ranks: dict[int, int] = {}
    for entry in tries:
        if seen_ranks.get(entry.rank, 0) < 2 and len(best) < _FINALISTS:
            seen_ranks[entry.rank] = seen_ranks.get(entry.rank, 0) + 1
            best.append(entry)
    if len(chosen) == len(seen.calls):
        return best
    return [_whole(seen, entry) for entry in best]


def _whole(seen: Observation, entry: _Try) -> _Try:
    with np.errstate(all="ignore"):
        detail, predicted = entry.predict(seen)
        masked = _masked(seen, predicted, entry.condition.masks)
    return dataclasses.replace(entry, detail=detail, after=seen.drift(masked))


def _estimated(
    seen: Observation, rules: Sequence[Condition], best: float
) -> list[_Try]:
    """Candidates with fitted numbers, under every condition."""
    if best == 0:
        return []
    tries = []
    for rule in rules:
        found = estimates.candidates(seen, rule.masks)
        for rank, (name, detail, fitted, predict) in enumerate(found):
            predicted = predict()
            after = seen.drift(_masked(seen, predicted, rule.masks))
            held = _given(detail, predicted)
            tries.append(_Try(name, detail, fitted, rule, after, 10_000 + rank, held))
    return tries


def _given(detail: str, predicted: Sequence[Array]) -> Predict:
    return lambda _: (detail, predicted)


def _telling(seen: Observation, tries: Sequence[_Try]) -> Sequence[_Try]:
    """Candidates whose match says something.

    Where all that is wrong is NaN or Inf, a condition is where those are: whatever
    gives NaN matches under it, and proves nothing.
    """
    if any(
        bool((wrong & np.isfinite(call.y)).any())
        for call, wrong in zip(seen.calls, wrong_elements(seen), strict=True)
        if call.y.shape == wrong.shape
    ):
        return tries
    plain = [t for t in tries if not t.condition.words]
    return plain or tries


def _simplest(tries: Sequence[_Try], limit: float) -> _Try | None:
    """The best candidate; of those as good, the one with the fewest fitted numbers."""
    if not tries or not math.isfinite(tries[0].after):
        return None
    bound = max(tries[0].after * _ALIKE, limit)
    alike = [t for t in tries if t.after <= bound]
    # What holds everywhere needs no condition; what needs one may not be fitted too.
    return min(
        alike, key=lambda t: (t.fitted, bool(t.condition.words), t.rank, t.after)
    )


def _alike(best: _Try, tries: Sequence[_Try], limit: float) -> set[str]:
    """Names of causes that the observation cannot tell from the best one."""
    bound = max(best.after * _ALIKE, limit)
    return {best.name} | {
        t.name for t in tries if t.after <= bound and t.fitted <= best.fitted
    }


@dataclass(frozen=True)
class _Drift:
    """What is to be explained."""

    operator: str
    before: float
    limit: float
    facts: tuple[str, ...]


def _diagnosis(best: _Try | None, tries: Sequence[_Try], drift: _Drift) -> Diagnosis:
    chosen = None if best is None else (best.name, best.detail)
    ranked = {(t.name, t.detail): t for t in reversed(tries)}
    others = tuple(
        Cause(name=t.name, detail=t.detail, after=t.after, fitted=t.fitted)
        for key, t in reversed(ranked.items())
        if key != chosen
    )[:4]
    before = drift.before
    if best is None or not (best.after <= _NAMED * before or not math.isfinite(before)):
        return Diagnosis(
            operator=drift.operator,
            cause=UNKNOWN,
            detail="no candidate accounts for what was seen",
            confidence=0.0,
            before=before,
            after=best.after if best is not None else before,
            limit=drift.limit,
            others=others,
            facts=drift.facts,
        )
    proven = best.after <= max(drift.limit, _PROVEN * min(before, 1.0))
    names = _alike(best, tries, drift.limit)
    alike = "" if len(names) == 1 else f"; or {', '.join(sorted(names - {best.name}))}"
    return Diagnosis(
        operator=drift.operator,
        cause=best.name,
        detail=best.detail + alike,
        confidence=(0.99 if proven else 0.7)
        * (0.5 if best.name == ANOTHER_WEIGHT else 1.0)
        / len(names),
        before=before,
        after=best.after,
        limit=drift.limit,
        when=best.condition.words,
        others=others,
        facts=drift.facts,
    )


def _facts(seen: Observation) -> Iterator[str]:
    """What is seen without any candidate."""
    wrong = wrong_elements(seen)
    count = sum(int(w.sum()) for w in wrong)
    total = sum(w.size for w in wrong)
    yield f"{count} of {total} output elements are wrong"
    bad = sum(int((~np.isfinite(c.y)).sum()) for c in seen.calls)
    if bad:
        yield f"{bad} of {total} are not finite"
    zeros = sum(
        int(((c.y == 0) & w).sum()) for c, w in zip(seen.calls, wrong, strict=True)
    )
    if zeros:
        yield f"{zeros} of the wrong ones are zero"
    for rule in conditions(seen)[:-1]:
        yield f"wrong only {rule.words}"
