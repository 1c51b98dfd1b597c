"""A target that is not exact, drawn often enough: what the judge reads of it.

The first draws show how much devices differ; from that follows how many are needed for
the mean of the logarithm of the drift to be known within `WITHIN`, at the level that is
left for one test of many (Stein's two stages: the number depends on the spread alone,
so that stopping favours no result). Twice a limit is then told from it. Seeds follow
from the suite's, and are recorded.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Sequence
from typing import Any, Final

import numpy as np

from harness.execution.answers import REPLIES, answers_of, recorded_replies
from harness.execution.context import Context, drift_of
from harness.execution.jobs import Draw, DrawsJob, DrawsRun, TargetJob, TargetRun
from harness.judge.evidence import DeviceEvidence, DeviceSeries, DeviceTail
from harness.judge.statistics.draws import draws_needed

Array = np.ndarray[Any, np.dtype[Any]]

#: Draws that decide how many are made, and most of them.
FIRST: Final = 12
MOST: Final = 32
#: Wanted half width of the interval of the mean drift, as a factor: from end to end 2.
WITHIN: Final = math.sqrt(2)
#: Of each end: about a hundred tests of a set of devices share 1%.
LEVEL: Final = 1e-4

#: Runs the devices of some seeds.
Run = Callable[[tuple[int, ...]], DrawsRun]


def device_of(
    context: Context, job: TargetJob, run: TargetRun, ask: Callable[[Any], Any]
) -> DeviceEvidence | None:
    """Draws of a target that is never twice the same; None: it is exact.

    Args:
        context: golden, behaviours and cases.
        job: by which the target was run.
        run: what that gave.
        ask: runs a `DrawsJob` in the target's worker.
    """
    arithmetic = run.arithmetic
    if not run.drawable or arithmetic is None or not run.outputs:
        return None

    def draw(seeds: tuple[int, ...]) -> DrawsRun:
        found: DrawsRun = ask(
            DrawsJob(
                suite=job.suite,
                backend=job.backend,
                scheme=job.scheme,
                seeds=seeds,
                ages=arithmetic.ages,
            )
        )
        return found

    return observe(context, draw, determinism=arithmetic.determinism)


def observe(
    context: Context,
    run: Run,
    *,
    determinism: str,
    first: int = FIRST,
    most: int = MOST,
) -> DeviceEvidence:
    """Draw devices until the interval is tight enough, at most `most`.

    Args:
        context: golden, behaviours and cases; its suite's seed is the first draw's.
        run: gives every age of the devices of the seeds.
        determinism: as declared.
        first: draws of the first stage.
        most: draws in all.
    """
    start = context.suite.seed
    seeds = tuple(start + index for index in range(first))
    found = run(seeds)
    draws = list(found.draws)
    wanted = max(
        (
            draws_needed(np.log(series.values), math.log(WITHIN), LEVEL)
            for series in _drifts(context, draws)
            if (series.values > 0).all()
        ),
        default=first,
    )
    count = min(wanted, most)
    if count > first:
        more = tuple(start + index for index in range(first, count))
        draws += run(more).draws
        seeds += more
    drifts = _drifts(context, draws)
    return DeviceEvidence(
        determinism=determinism,
        seeds=seeds,
        first=first,
        wanted=wanted,
        declares=found.declares,
        reference_wrong=_reference_wrong(context, draws[0]),
        cases=len(draws[0].outputs),
        series=(
            *drifts,
            *_slopes(drifts),
            *_wrong(context, draws),
            *_operators(draws),
        ),
        tails=tuple(_tails(draws)),
    )


def _drifts(context: Context, draws: Sequence[Draw]) -> list[DeviceSeries]:
    found = defaultdict(list)
    for draw in draws:
        found[draw.age].append(drift_of(context, draw.outputs).ratio)
    return [_series("drift", "", age, values) for age, values in found.items()]


def _slopes(drifts: Sequence[DeviceSeries]) -> list[DeviceSeries]:
    """Of each device: how much log10 of its drift grows a decade of time."""
    aged = [entry for entry in drifts if entry.age > 0]
    if len(aged) < 2 or any(not (entry.values > 0).all() for entry in aged):
        return []
    decades = np.log10([entry.age for entry in aged])
    logs = np.log10(np.stack([entry.values for entry in aged]))
    centred = decades - decades.mean()
    slopes = (centred[:, None] * logs).sum(axis=0) / (centred**2).sum()
    return [_series("slope", "", aged[-1].age, slopes.tolist())]


def _wrong(context: Context, draws: Sequence[Draw]) -> list[DeviceSeries]:
    """Share of wrong answers of every behaviour that reads outputs."""
    found = defaultdict(list)
    for draw in draws:
        answers = answers_of(
            context.suite,
            context.description,
            draw.outputs,
            context.behaviours,
            replies={},
            reference=recorded_replies(context.golden),
        )
        for name, by_case in answers.items():
            right = [answer.both for answer in by_case.values()]
            if right:
                found[name, draw.age].append(1 - sum(right) / len(right))
    return [
        _series("wrong", name, age, values) for (name, age), values in found.items()
    ]


def _reference_wrong(context: Context, draw: Draw) -> dict[str, float]:
    """Share of wrong answers that the reference gave on the same cases."""
    found = {}
    for name, answers in context.golden.behaviours.items():
        right = [bool(answers[c]["right"]) for c in draw.outputs if c in answers]
        if right and name != REPLIES:
            found[name] = 1 - sum(right) / len(right)
    return found


def _operators(draws: Sequence[Draw]) -> list[DeviceSeries]:
    """Error over what is declared of it, and what is left of the mean."""
    found: defaultdict[tuple[str, str, float], list[float]] = defaultdict(list)
    for draw in draws:
        for name, residual in draw.residual.items():
            declared = float(draw.declared[name].sum())
            error = float(residual.sum())
            # NaN stays NaN, which no limit is above.
            ratio = error / declared if declared > 0 else np.nan if error else 0.0
            found["error", name, draw.age].append(ratio)
            found["channel", name, draw.age].append(float(_ratios(draw, name).max()))
            found["gain", name, draw.age].append(draw.gain[name])
            found["offset", name, draw.age].append(draw.offset[name])
    return [_series(*key, values) for key, values in found.items()]


def _ratios(draw: Draw, name: str) -> Array:
    """Squared error of every channel over what is declared of it; NaN is endless."""
    declared = draw.declared[name]
    # What is declared as nothing may still round, in float32.
    least = max(float(declared.sum()) * 2.0**-48, 1e-300)
    ratio: Array = draw.residual[name] / np.maximum(declared, least)
    return np.nan_to_num(ratio, nan=np.inf)


def _tails(draws: Sequence[Draw]) -> list[DeviceTail]:
    """Of every operator and age the channel whose smallest ratio is the largest."""
    stacked: defaultdict[tuple[str, float], list[Array]] = defaultdict(list)
    for draw in draws:
        for name in draw.residual:
            stacked[name, draw.age].append(_ratios(draw, name))
    found = []
    for (name, age), entries in stacked.items():
        least = np.min(entries, axis=0)
        worst = int(least.argmax())
        found.append(
            DeviceTail(
                operator=name,
                age=age,
                channel=worst,
                ratio=float(least[worst]),
                draws=len(entries),
                among=least.size,
            )
        )
    return found


def _series(kind: Any, of: str, age: float, values: Sequence[float]) -> DeviceSeries:
    array = np.array(values, dtype=np.float64)
    return DeviceSeries(kind=kind, of=of, age=age, values=array)
