"""The orderings of a suite alone: the logits of its targets, and nothing else.

    python benchmarks/llm/orderings.py [--suite SUITE] [BACKEND...]

A run of the suite judges them among all that it judges; this takes a third of the
time. The cases are those before a merge. The level is that of one test, 1 %.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from harness.backends.registry import load_registry
from harness.execution.calibrated import calibrated
from harness.execution.cases_run import run_cases
from harness.execution.context import drift_of, make_context
from harness.execution.loaded import Loaded
from harness.execution.matrix import suite_ref
from harness.execution.metrics_by_case import metrics
from harness.execution.ordering import with_orderings
from harness.execution.suite import load_suite
from harness.golden.store import read_golden
from harness.judge.checks.ordering import ordering
from harness.judge.evidence import Evidence
from harness.judge.levels import Levels

SUITE = Path(__file__).resolve().parents[2] / "suites/smollm2"


def main() -> None:
    """Run every target that an ordering names, print a row each."""
    registry = load_registry()
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--suite", type=Path, default=SUITE)
    parser.add_argument("backends", nargs="*", metavar="BACKEND")
    options = parser.parse_args()
    suite = load_suite(options.suite, registry)
    golden = read_golden(suite.golden, suite=suite.name)
    loaded, ref = Loaded(), suite_ref(suite, select=suite.select)
    context = make_context(suite, loaded.describe(ref), golden, registry)
    model, cases = loaded.get(ref).model, loaded.get(ref).cases
    named = {n for entry in suite.orderings for n in (entry.better, entry.worse)}
    pairs = [
        (suite, target)
        for target in suite.targets
        if target.name in named
        and (not options.backends or target.backend in options.backends)
    ]
    evidences = []
    for _, target in pairs:
        scheme = calibrated(target.scheme, golden)
        session = registry.backend(target.backend).load(model, scheme)
        outputs = run_cases(session, model, cases, batch=suite.batch).outputs
        session.close()
        measured = metrics(context.description, context.golden, outputs)
        found = {entry.name: entry.values.mean() for entry in measured.metrics}
        print(f"{target.name}: KL {found.get('logits.kl')}", file=sys.stderr)
        evidences.append(
            Evidence(
                suite=suite.name,
                backend=target.backend,
                scheme=target.scheme.name,
                seed=suite.seed,
                metrics=tuple(measured.metrics),
                drift=drift_of(context, outputs),
                noise_floor=max(golden.noise_floor.values(), default=0.0),
            )
        )
    print("| more bits | fewer bits | metric | worse by | p | verdict |")
    print("| --- " * 6 + "|")
    for evidence in with_orderings(pairs, evidences):
        found = ordering(evidence, Levels())
        for entry, shown in zip(evidence.orderings, found.results, strict=True):
            if entry.unjudged:
                print(f"| {entry.other} | {shown.reason} |")
                continue
            name = f"ordering.{entry.metric}[{entry.other}]"
            value = next(m for m in found.measurements if m.name == name)
            p = found.tests[f"ordering:{entry.metric}[{entry.other}]"]
            print(
                f"| {evidence.backend}/{evidence.scheme} | {entry.other} "
                f"| {entry.metric} | {value.value:.3g} [{value.low:.3g}, "
                f"{value.high:.3g}] | {p:.2g} | {shown.verdict} |"
            )


if __name__ == "__main__":
    main()
