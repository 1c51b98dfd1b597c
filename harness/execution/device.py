"""A target that is not exact, drawn often enough: what the judge reads of it.

The first draws show how much devices differ; from that follows how many are needed for
the mean of the logarithm of the drift to be known within `WITHIN` (Stein's two stages:
the number depends on the spread alone, so that stopping favours no result). Seeds
follow from the suite's, and are recorded.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Sequence
from typing import Final

import numpy as np

from harness.execution.assemble import Context, answers_of, drift_of, recorded_replies
from harness.execution.jobs import Draw, DrawsRun
from harness.judge.evidence import DeviceEvidence, DeviceSeries, DeviceTail
from harness.judge.statistics.draws import draws_needed

#: Draws that decide how many are made, and most of them.
FIRST: Final = 8
MOST: Final = 24
#: Wanted half width of the 95% interval of the mean drift, as a factor.
WITHIN: Final = 1.25
_LEVEL: Final = 0.025

#: Runs the devices of some seeds.
Run = Callable[[tuple[int, ...]], DrawsRun]


def observe(
    context: Context,
    run: Run,
    *,
    determinism: str,
    first: int = FIRST,
    most: int = MOST,
    seed: int | None = None,
) -> DeviceEvidence:
    """Draw devices until the interval is tight enough, at most `most`.

    Args:
        context: golden, behaviours and cases.
        run: gives every age of the devices of the seeds.
        determinism: as declared.
        first: draws of the first stage.
        most: draws in all.
        seed: of the first draw; None: the suite's.
    """
    start = context.suite.seed if seed is None else seed
    seeds = tuple(start + index for index in range(first))
    draws = list(run(seeds).draws)
    wanted = max(
        (
            draws_needed(np.log(series.values), math.log(WITHIN), _LEVEL)
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
    series = [*drifts, *_slopes(drifts), *_wrong(context, draws), *_operators(draws)]
    return DeviceEvidence(
        determinism=determinism,
        seeds=seeds,
        first=first,
        wanted=wanted,
        series=tuple(series),
        tails=tuple(_tails(draws)),
    )


def _drifts(context: Context, draws: Sequence[Draw]) -> list[DeviceSeries]:
    found = defaultdict(list)
    for draw in draws:
        found[draw.age].append(drift_of(context, draw.outputs).ratio)
    return [_series("drift", age, values) for age, values in found.items()]


def _slopes(drifts: Sequence[DeviceSeries]) -> list[DeviceSeries]:
    """Of each device: how much log10 of its drift grows a decade of time."""
    aged = [entry for entry in drifts if entry.age > 0]
    if len(aged) < 2 or any(not (entry.values > 0).all() for entry in aged):
        return []
    decades = np.log10([entry.age for entry in aged])
    logs = np.log10(np.stack([entry.values for entry in aged]))
    centred = decades - decades.mean()
    slopes = (centred[:, None] * logs).sum(axis=0) / (centred**2).sum()
    return [_series("slope of drift", aged[-1].age, slopes.tolist())]


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
            right = [answer.right for answer in by_case.values()]
            if right:
                found[name, draw.age].append(1 - sum(right) / len(right))
    return [
        _series(f"wrong answers: {name}", age, values)
        for (name, age), values in found.items()
    ]


def _operators(draws: Sequence[Draw]) -> list[DeviceSeries]:
    """Squared error of every operator over what is declared of it."""
    found = defaultdict(list)
    for draw in draws:
        for name, residual in draw.residual.items():
            declared = float(draw.declared[name].sum())
            error = float(residual.sum())
            ratio = error / declared if declared > 0 else float(error > 0) * math.inf
            found[name, draw.age].append(ratio)
    return [
        _series(f"operator {name}", age, values)
        for (name, age), values in found.items()
    ]


def _tails(draws: Sequence[Draw]) -> list[DeviceTail]:
    """Of every operator and age, the channel that is furthest beyond."""
    found: dict[tuple[str, float], DeviceTail] = {}
    count: defaultdict[tuple[str, float], int] = defaultdict(int)
    for draw in draws:
        for name, residual in draw.residual.items():
            key = (name, draw.age)
            declared = np.maximum(draw.declared[name], 1e-300)
            ratios = np.where(residual > 0, residual / declared, 0.0)
            ratios = np.nan_to_num(ratios, nan=np.inf)
            count[key] += len(ratios)
            worst = int(ratios.argmax())
            if key not in found or ratios[worst] > found[key].ratio:
                found[key] = DeviceTail(
                    operator=name,
                    age=draw.age,
                    channel=worst,
                    seed=draw.seed,
                    ratio=float(ratios[worst]),
                    among=0,
                )
    return [
        DeviceTail(
            operator=tail.operator,
            age=tail.age,
            channel=tail.channel,
            seed=tail.seed,
            ratio=tail.ratio,
            among=count[key],
        )
        for key, tail in found.items()
    ]


def _series(name: str, age: float, values: Sequence[float]) -> DeviceSeries:
    return DeviceSeries(name=name, age=age, values=np.array(values, dtype=np.float64))
