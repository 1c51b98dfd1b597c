"""False alarms of the whole gate on real measurements with nothing wrong.

Takes run folders of the same suites measured more than once with nothing changed but
threads, batch size or seed (each holds `evidence.json` of every target). A replay draws
for every target two of its measurements, one as baseline and one as candidate, draws
its cases with replacement, gives it the budget that calibration proposes from the
baseline, and judges all targets as one gate. Any failing verdict is a false alarm, but
for failures that the suites acknowledge. Metrics without a budget are never tested and
are left out.
Run: python benchmarks/judge/replay.py RUN [RUN ...] [--replays 2000] [--json FILE]
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
from collections import Counter, defaultdict
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import numpy as np

import harness.judge.checks
from harness.judge import judge_run
from harness.judge.calibrate import propose
from harness.judge.evidence import BaselineEvidence, Budget, Paired
from harness.judge.evidence_file import evidence_from_dict
from harness.judge.statistics.paired_binary import share_bounds


def load(folders):
    """Target name -> its measurements, those that did not fail."""
    found = defaultdict(list)
    for folder in folders:
        for file in sorted(Path(folder).rglob("evidence.json")):
            data = json.loads(file.read_text(encoding="utf-8"))
            evidence = evidence_from_dict(data, source=str(file))
            if evidence.failure is None and evidence.drift is not None:
                name = f"{evidence.suite}/{evidence.backend}/{evidence.scheme}"
                found[name].append(evidence)
    return dict(found)


def _paired(paired, kept, names):
    if paired is None:
        return None
    return Paired(
        cases=names,
        error_sq=paired.error_sq[kept],
        reference_sq=paired.reference_sq[kept],
    )


def resampled(evidence, kept):
    """The evidence over cases drawn again; copies are cases of their own."""
    cases = evidence.drift.cases
    names = tuple(f"{cases[i]}#{k}" for k, i in enumerate(kept))
    position = {case: i for i, case in enumerate(cases)}

    def by_case(values, of):
        index = {case: i for i, case in enumerate(of)}
        rows = [(k, index[cases[i]]) for k, i in enumerate(kept) if cases[i] in index]
        chosen = [row for _, row in rows]
        return np.asarray(values)[chosen], tuple(names[k] for k, _ in rows)

    behaviours = []
    for entry in evidence.behaviours:
        before, of = by_case(entry.reference_right, entry.cases)
        now, _ = by_case(entry.target_right, entry.cases)
        behaviours.append(
            dataclasses.replace(
                entry, cases=of, reference_right=before, target_right=now
            )
        )
    assert len(position) == len(cases)  # sanity check: ids are unique
    return dataclasses.replace(
        evidence,
        drift=_paired(evidence.drift, kept, names),
        oracle_drift=_paired(evidence.oracle_drift, kept, names),
        end_to_end=_paired(evidence.end_to_end, kept, names),
        metrics=(),
        behaviours=tuple(behaviours),
        tags={
            name: evidence.tags.get(cases[i], ())
            for name, i in zip(names, kept, strict=True)
        },
        baseline=None,
    )


def budgets_of(evidence):
    """What calibration proposes for the drift."""
    plain = dataclasses.replace(evidence, metrics=())
    return {
        entry.metric: Budget(metric=entry.metric, limit=entry.limit, source="replay")
        for entry in propose(plain)
        if np.isfinite(entry.limit) and entry.limit > 0
    }


def unchanged(measurements, rng):
    """One target of one replay: nothing is wrong, so behaviours repeat the baseline.

    Answers that quantization really loses are no false alarm, so the reference's
    answers are replaced by the other measurement's.
    """
    first, second = rng.integers(0, len(measurements), 2)
    (before, budgets), (now, _) = measurements[first], measurements[second]
    answers = {entry.name: entry for entry in before.behaviours}
    behaviours = tuple(
        dataclasses.replace(
            entry, reference_right=answers[entry.name].target_right, margin=None
        )
        for entry in now.behaviours
        if entry.name in answers and answers[entry.name].cases == entry.cases
    )
    kept = rng.integers(0, len(now.drift.cases), len(now.drift.cases))
    seed = int(rng.integers(2**31))
    candidate = resampled(
        dataclasses.replace(now, behaviours=behaviours, seed=seed), kept
    )
    baseline = resampled(before, kept)
    return dataclasses.replace(
        candidate,
        budgets=budgets,
        baseline=BaselineEvidence(
            run="replay",
            same_environment=False,
            drift=baseline.drift,
            behaviours={e.name: e.target_right for e in baseline.behaviours},
            behaviour_cases={e.name: e.cases for e in baseline.behaviours},
        ),
    )


def replay(job):
    """One process's replays: every failing or unresolved target of each."""
    targets, seed, numbers = job
    # Verdicts rest on p-values. The interval that is printed beside them is found by
    # asking for thirty more.
    for check in (harness.judge.checks.behaviour, harness.judge.checks.regression):
        sys.modules[check.__module__].loss_bounds = lambda *_: (-1.0, 1.0)
    found = []
    for number in numbers:
        rng = np.random.default_rng([seed, number])
        judged = judge_run([unchanged(entry, rng) for entry in targets.values()])
        found.append(
            [
                f"{entry.name}: {entry.verdict}"
                for entry in judged
                if entry.verdict.fails or str(entry.verdict) == "inconclusive"
            ]
        )
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("runs", nargs="+", type=Path)
    parser.add_argument("--replays", type=int, default=2000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--processes", type=int, default=1)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    targets = load(arguments.runs)
    if not targets:
        raise SystemExit("no evidence.json of a target that ran in these folders")
    ready = {
        name: [(entry, budgets_of(entry)) for entry in entries]
        for name, entries in targets.items()
    }
    count = arguments.processes
    jobs = [
        (ready, arguments.seed, range(start, arguments.replays, count))
        for start in range(count)
    ]
    with ProcessPoolExecutor(count, get_context("spawn")) as pool:
        replays = [found for part in pool.map(replay, jobs) for found in part]
    failing = [[e for e in found if "inconclusive" not in e] for found in replays]
    alarms = sum(map(bool, failing))
    inconclusive = sum(map(bool, replays)) - alarms
    why = Counter(entry for found in failing for entry in found)
    low, high = share_bounds(alarms, arguments.replays, 0.025)
    result = {
        "targets": len(targets),
        "measurements": {name: len(entry) for name, entry in targets.items()},
        "replays": arguments.replays,
        "false_alarms": alarms,
        "share": alarms / arguments.replays,
        "interval_95": [low, high],
        "replays_with_nothing_but_inconclusive": inconclusive,
        "which": dict(why),
    }
    text = json.dumps(result, indent=1)
    print(text)
    if arguments.json:
        arguments.json.write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
