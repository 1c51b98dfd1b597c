"""How often each gate fails for a true drop: exact sums, no simulation error.

Of n answers, lost ones have chance churn/2 + drop and gained ones churn/2, so
`churn` is the share of answers that change between two runs of the same thing.
Run: python benchmarks/judge/power.py [--json FILE]
"""

from __future__ import annotations

import argparse
import json
import math
from pathlib import Path

import numpy as np
from peer_gates import PEERS
from scipy.special import gammaln

from harness.judge.levels import ALPHA, SHARES
from harness.judge.statistics.paired_binary import Flips, loss_p_value

CASES = (200, 1319, 4096)
ACCURACIES = (0.7, 0.9)
CHURNS = (0.01, 0.02, 0.05, 0.20)
DROPS = (0.0, 0.005, 0.01, 0.015, 0.02, 0.03, 0.05)
#: The level of the one test alone, and its share in a gate where the explained, the
#: distance and the slices check tested something too.
LEVELS = {
    "quantharness": ALPHA,
    "quantharness in a full gate": ALPHA
    * SHARES["behaviour"]
    / (SHARES["behaviour"] + 3),
}


def tables(cases, lost, gained):
    """Numbers gained and lost that matter, and the chance of each pair."""

    def window(share):
        spread = 7 * math.sqrt(cases * share * (1 - share)) + 12
        low, high = cases * share - spread, cases * share + spread
        return np.arange(max(0, int(low)), min(cases, int(high)) + 1)

    b, c = window(lost)[:, None], window(gained)[None, :]
    rest = cases - b - c
    logs = gammaln(cases + 1) - gammaln(b + 1) - gammaln(c + 1)
    logs = logs - gammaln(np.maximum(rest, 0) + 1)
    logs = logs + b * math.log(lost) + c * math.log(gained)
    logs = logs + rest * math.log(1 - lost - gained)
    return b, c, np.where(rest >= 0, np.exp(logs), 0.0)


_BOUNDARY: dict[tuple[int, float, int], int] = {}


def boundary(cases, level, gained):
    """Fewest lost answers that the exact paired test rejects at."""
    key = (cases, level, gained)
    if key in _BOUNDARY:
        return _BOUNDARY[key]
    near = _BOUNDARY.get((cases, level, gained - 1))
    lost = near if near is not None else gained + 1

    def rejects(lost):
        table = Flips(lost=lost, gained=gained, cases=cases)
        return loss_p_value(table) <= level

    while lost <= cases - gained and not rejects(lost):
        lost += 1
    while lost > gained + 1 and rejects(lost - 1):
        lost -= 1
    _BOUNDARY[key] = lost
    return lost


def power_row(cases, accuracy, churn, drop):
    """Gate -> chance that it fails."""
    lost, gained = churn / 2 + drop, churn / 2
    b, c, weight = tables(cases, lost, gained)
    reference = np.full(np.broadcast_shapes(b.shape, c.shape), accuracy)
    candidate = reference - (b - c) / cases
    row = {
        name: float((weight * gate(reference, candidate, cases)).sum())
        for name, gate in PEERS.items()
    }
    for name, level in LEVELS.items():
        least = np.array([boundary(cases, level, int(g)) for g in c[0]])
        row[name] = float((weight * (b >= least)).sum())
    return row


def family_row(churn):
    """Chance that any of six unchanged small tasks fails, gate by gate."""
    tasks = ((198, 0.7), (315, 0.7), (338, 0.4), (294, 0.6), (100, 0.6), (114, 0.8))
    quiet = dict.fromkeys([*PEERS, "quantharness"], 1.0)
    for cases, accuracy in tasks:
        b, c, weight = tables(cases, churn / 2, churn / 2)
        reference = np.full(np.broadcast_shapes(b.shape, c.shape), accuracy)
        candidate = reference - (b - c) / cases
        for name, gate in PEERS.items():
            quiet[name] *= 1 - float((weight * gate(reference, candidate, cases)).sum())
        least = np.array([boundary(cases, 0.01 / len(tasks), int(g)) for g in c[0]])
        quiet["quantharness"] *= 1 - float((weight * (b >= least)).sum())
    return {name: 1 - chance for name, chance in quiet.items()}


def all_rows():
    for cases in CASES:
        for accuracy in ACCURACIES:
            for churn in CHURNS:
                # No more than all wrong answers can be gained.
                if churn / 2 > 1 - accuracy + 1e-9:
                    continue
                for drop in DROPS:
                    yield {
                        "cases": cases,
                        "accuracy": accuracy,
                        "churn": churn,
                        "drop": drop,
                        "fails": power_row(cases, accuracy, churn, drop),
                    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", type=Path)
    rows = list(all_rows())
    families = {str(churn): family_row(churn) for churn in (0.033, 0.10)}
    arguments = parser.parse_args()
    if arguments.json:
        text = json.dumps({"power": rows, "six_tasks": families}, indent=1)
        arguments.json.write_text(text + "\n", encoding="utf-8")
    names = list(rows[0]["fails"])
    print("cases accuracy churn drop  " + "  ".join(names))
    for row in rows:
        values = "  ".join(f"{row['fails'][name]:.3f}" for name in names)
        print(
            f"{row['cases']} {row['accuracy']} {row['churn']} {row['drop']}  {values}"
        )
    print("any of six unchanged tasks fails, by churn:", families)


if __name__ == "__main__":
    main()
