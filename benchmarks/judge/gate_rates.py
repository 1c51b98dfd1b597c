"""False alarms of the whole gate where nothing is wrong but everything is at its edge.

Every simulated target sits exactly at its limits: its true drift is its budget, every
operator's noise has exactly the expected energy and is one and the same error for all
of its elements (the least favourable dependence), its answers and its drift change
against reference and baseline by chance alone. Any failing verdict is an alarm.
Run: python benchmarks/judge/gate_rates.py [--gates 2000] [--targets 4] [--json FILE]
"""

from __future__ import annotations

import argparse
import json
import math
from collections import Counter
from pathlib import Path

import numpy as np

from harness.judge import judge_run
from harness.judge.evidence import (
    BaselineEvidence,
    BehaviourEvidence,
    Budget,
    Evidence,
    OperatorEvidence,
    Paired,
)
from harness.judge.statistics.paired_binary import share_bounds

CASES = tuple(f"case-{i}" for i in range(100))
TAGS = {
    case: tuple(t for t, k in (("long", 5), ("code", 4)) if i % k == 0)
    for i, case in enumerate(CASES)
}
OPERATORS = 40
SPREAD = 0.5
CHURN = 0.03


def paired(error, reference):
    return Paired(cases=CASES, error_sq=error, reference_sq=reference)


def target(rng, name):
    """Evidence of a target with which nothing is wrong."""
    reference = rng.uniform(0.5, 1.5, len(CASES))
    shared = rng.standard_normal(len(CASES))

    def errors():
        # Cases differ alike in both runs; what is left is each run's own.
        own = 0.3 * rng.standard_normal(len(CASES))
        mixed = SPREAD * shared + own
        return reference * 0.01 * np.exp(mixed - (SPREAD**2 + 0.09) / 2)

    right = rng.random(len(CASES)) < 0.9

    def answers():
        return right ^ (rng.random(len(CASES)) < CHURN / 2)

    operators = tuple(
        OperatorEvidence(
            operator=f"layer.{i}",
            residual_sq=1e-6 * float(rng.standard_normal()) ** 2,
            quantization_sq=0.01,
            signal_sq=1.0,
            explained_sq=1e-6,
            elements=1000,
        )
        for i in range(OPERATORS)
    )
    before = answers()
    return Evidence(
        suite="edge",
        backend="simulated",
        scheme=name,
        seed=int(rng.integers(2**31)),
        budgets={"drift": Budget(metric="drift", limit=math.sqrt(0.01), source="edge")},
        operators=operators,
        drift=paired(errors(), reference),
        behaviours=(
            BehaviourEvidence(
                name="labels",
                cases=CASES,
                reference_right=before,
                target_right=answers(),
            ),
        ),
        baseline=BaselineEvidence(
            run="before",
            same_environment=False,
            drift=paired(errors(), reference),
            behaviours={"labels": answers()},
        ),
        tags=TAGS,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--gates", type=int, default=2000)
    parser.add_argument("--targets", type=int, default=4)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    alarms, why = 0, Counter()
    for gate in range(arguments.gates):
        rng = np.random.default_rng([gate, 23])
        found = judge_run([target(rng, f"s{i}") for i in range(arguments.targets)])
        failing = [entry for entry in found if entry.verdict.fails]
        alarms += bool(failing)
        why.update(
            check.check
            for entry in failing
            for check in entry.checks
            if check.verdict.fails
        )
    low, high = share_bounds(alarms, arguments.gates, 0.025)
    result = {
        "gates": arguments.gates,
        "targets": arguments.targets,
        "alarms": alarms,
        "share": alarms / arguments.gates,
        "interval_95": [low, high],
        "checks": dict(why),
    }
    text = json.dumps(result, indent=1)
    print(text)
    if arguments.json:
        arguments.json.write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
