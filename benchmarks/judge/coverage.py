"""How often our intervals miss the truth, by simulation, on either side.

Every bound is one-sided at a stated level; printed is the share of simulated data sets
in which the truth lies beyond it, with the naive interval beside it.
Run: python benchmarks/judge/coverage.py [--repeats N] [--json FILE]
"""

# ruff: noqa: ARG001 - all gates and draws have one signature

from __future__ import annotations

import argparse
import json
import math
from pathlib import Path

import numpy as np
from scipy.special import ndtri

from harness.judge.statistics.latency import speed_ratio
from harness.judge.statistics.mean import resampled_mean
from harness.judge.statistics.paired_binary import Flips, loss_bounds, share_bounds
from harness.judge.statistics.paired_ratio import resampled_rise
from harness.judge.statistics.ratio import pooled

LEVELS = (0.01, 0.05)


def counted(draw, truth, repeats, levels=LEVELS):
    """Share of data sets whose lower and upper bound miss the truth."""
    misses = {level: [0, 0] for level in levels}
    for seed in range(repeats):
        estimate = draw(np.random.default_rng([seed, 17]), seed)
        for level in levels:
            low, high = estimate(level)
            misses[level][0] += low > truth
            misses[level][1] += high < truth
    return {
        str(level): {"low": below / repeats, "high": above / repeats}
        for level, (below, above) in misses.items()
    }


def lognormal(sigma):
    """Errors whose mean is 1 and whose tail is as heavy as sigma says."""

    def sample(rng, cases):
        return np.exp(sigma * rng.standard_normal(cases) - sigma**2 / 2)

    return sample


def ratio_case(cases, sigma):
    sample = lognormal(sigma)

    def draw(rng, seed):
        reference = rng.uniform(0.5, 1.5, cases)
        return pooled(reference * sample(rng, cases), reference, seed=seed).bounds

    return draw, 1.0


def mean_case(cases, sigma):
    sample = lognormal(sigma)

    def draw(rng, seed):
        return resampled_mean(sample(rng, cases), seed=seed).bounds

    return draw, 1.0


def rise_case(cases, sigma):
    sample = lognormal(sigma)

    def draw(rng, seed):
        before = sample(rng, cases)
        now = before * 1.1 * np.exp(0.1 * rng.standard_normal(cases) - 0.005)
        reference = np.ones(cases)
        return resampled_rise(now, before, reference, seed=seed).bounds

    return draw, math.sqrt(1.1) - 1


def clustered_case(prompts, tokens, correlation, *, naive=False):
    """Tokens of one prompt share most of their error."""
    names = [str(i) for i in range(prompts) for _ in range(tokens)]

    def draw(rng, seed):
        shared = np.repeat(rng.standard_normal(prompts), tokens)
        own = rng.standard_normal(prompts * tokens)
        values = 10 + math.sqrt(correlation) * shared + math.sqrt(1 - correlation) * own
        if naive:
            error = values.std(ddof=1) / math.sqrt(len(values))
            return lambda level: (
                values.mean() + ndtri(level) * error,
                values.mean() - ndtri(level) * error,
            )
        return resampled_mean(values, seed=seed, clusters=names).bounds

    return draw, 10.0


def loss_case(cases, lost, gained):
    def draw(rng, seed):
        counts = rng.multinomial(cases, [lost, gained, 1 - lost - gained])
        table = Flips(lost=int(counts[0]), gained=int(counts[1]), cases=cases)
        return lambda level: loss_bounds(table, level)

    return draw, lost - gained


def share_case(cases, share):
    def draw(rng, seed):
        count = int(rng.binomial(cases, share))
        return lambda level: share_bounds(count, cases, level)

    return draw, share


def speed_case(pairs, percentile):
    def draw(rng, seed):
        # A slow machine for a while slows both; each has its own heavy tail.
        mood = np.repeat(rng.lognormal(0, 0.1, math.ceil(pairs / 5)), 5)[:pairs]
        reference = mood * rng.lognormal(0, 0.05, pairs)
        target = 1.2 * mood * rng.lognormal(0, 0.05, pairs)
        return speed_ratio(reference, target, percentile=percentile, seed=seed).bounds

    return draw, 1.2


def all_cases():
    for cases in (10, 20, 40, 100):
        for sigma in (0.3, 1.0):
            yield f"drift, {cases} cases, sigma {sigma}", ratio_case(cases, sigma)
    for cases in (20, 100):
        for sigma in (0.3, 1.0):
            yield f"metric mean, {cases} cases, sigma {sigma}", mean_case(cases, sigma)
    for cases in (20, 100):
        yield f"rise of drift, {cases} cases", rise_case(cases, 0.5)
    for correlation in (0.0, 0.5, 0.9):
        case = clustered_case(60, 10, correlation)
        yield f"60 prompts x 10 tokens, correlation {correlation}", case
        case = clustered_case(60, 10, correlation, naive=True)
        yield f"the same, naive, correlation {correlation}", case
    for cases, lost, gained in ((60, 0.05, 0.05), (1319, 0.015, 0.005)):
        yield (
            f"loss, {cases} cases, churn {lost + gained}",
            loss_case(cases, lost, gained),
        )
    yield "share of flips, 60 cases", share_case(60, 0.1)
    yield "speed ratio, median of 60", speed_case(60, 50)
    yield "speed ratio, p95 of 200", speed_case(200, 95)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=2000)
    parser.add_argument("--only", default="")
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    found = {}
    for name, (draw, truth) in all_cases():
        if arguments.only not in name:
            continue
        found[name] = counted(draw, truth, arguments.repeats)
        print(name, found[name], flush=True)
    if arguments.json:
        data = {"repeats": arguments.repeats, "misses": found}
        arguments.json.write_text(json.dumps(data, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
