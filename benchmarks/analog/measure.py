"""How often the judge of devices cries wolf, and which broken devices it sees.

Draws lots of clean simulated devices, judges each lot against the one before it, then
lots with one fault each, judged alone and against a clean lot. Every lot's evidence is
kept, so that it can be judged again without being drawn again.

    python benchmarks/analog/measure.py suites/vad --clean 41 --out OUT
    python benchmarks/analog/measure.py suites/vad --backend aihwkit --out OUT

A backend that has an environment of its own is drawn there.
"""

from __future__ import annotations

import argparse
import dataclasses
import itertools
import json
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from harness.backends.aihwkit_backend import AihwkitBackend
from harness.backends.analog_backend import AnalogBackend, AnalogSession
from harness.backends.registry import Registry, load_registry
from harness.environments import is_inside, launch, variables
from harness.execution.calibrated import calibrated
from harness.execution.context import Context, make_context
from harness.execution.device import observe
from harness.execution.draws import run_draws
from harness.execution.jobs import DrawsJob, DrawsRun
from harness.execution.loaded import Loaded
from harness.execution.matrix import suite_ref
from harness.execution.suite import Suite, Target, load_suite
from harness.files import write_json
from harness.golden.store import read_golden
from harness.judge import judge
from harness.judge.budgets import budgets_for
from harness.judge.evidence import BaselineEvidence, Evidence
from harness.judge.evidence_file import evidence_as_dict, evidence_from_dict
from harness.judge.types import CheckResult, Verdict

#: Faults by name; OPERATOR stands for the one of `--operator`.
FAULTS: Mapping[str, Mapping[str, Any]] = {
    "twice the programming noise": {"programming": 2.0},
    "scale of one tile 10% off": {"scale": {"OPERATOR": 1.1}},
    "scale of one tile 5% off": {"scale": {"OPERATOR": 1.05}},
    "drift not compensated": {"compensated": False},
    "one dead column": {"dead": {"OPERATOR": (3,)}},
    "mean of one tile shifted": {"shift": {"OPERATOR": 0.1}},
    "twice the read noise": {"read": 2.0},
    "programming noise 20% up": {"programming": 1.2},
}
BACKENDS: Mapping[str, type[AnalogBackend]] = {
    "analog": AnalogBackend,
    "aihwkit": AihwkitBackend,
}


def main() -> None:
    """Draw what is not there yet, judge everything, print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("suite", type=Path)
    parser.add_argument("--clean", type=int, default=41)
    parser.add_argument("--operator", default="node_linear")
    parser.add_argument("--backend", choices=BACKENDS, default="analog")
    parser.add_argument("--fault", action="append", choices=FAULTS, help="of these")
    parser.add_argument("--out", type=Path, required=True)
    given = parser.parse_args()
    own = getattr(BACKENDS[given.backend], "own_environment", "")
    if own and not is_inside(own):
        sys.exit(_again_inside(own))
    bench = Bench(given.suite, given.out, given.backend)
    clean = [bench.lot(f"clean-{i:02}", {"lot": i}) for i in range(given.clean)]
    alarms = 0
    for before, now in itertools.pairwise(clean):
        alarm = bench.alarms(now, before)
        if alarm:
            alarms += 1
            print("ALARM", *alarm)
    print(f"clean lots against the one before: {alarms} alarms in {len(clean) - 1}")
    for index, (name, options) in enumerate(FAULTS.items()):
        if name not in (given.fault or FAULTS):
            continue
        text = json.dumps({**options, "lot": 1000 + index})
        chosen = json.loads(text.replace("OPERATOR", given.operator))
        lot = bench.lot(name.replace(" ", "-").replace("%", ""), chosen)
        for how, baseline in (("alone", None), ("against clean", clean[0])):
            found = bench.alarms(lot, baseline)
            verdicts = sorted({str(check.verdict) for check in found}) or ["pass"]
            print(f"{name}, {how}: {', '.join(verdicts)}")
            for check in found:
                print(f"    {check.reason}")


def _again_inside(own: str) -> int:
    """This command in an environment."""
    here = {**os.environ, **variables(own)}
    path = [here["PYTHONPATH"], str(Path(__file__).parent)]
    here["PYTHONPATH"] = os.pathsep.join(path)
    command = [*launch(own, Path(__file__).stem), *sys.argv[1:]]
    return subprocess.run(command, env=here, check=False).returncode


class Bench:
    """A suite's target of noisy hardware, drawn in this process."""

    def __init__(self, folder: Path, out: Path, backend: str) -> None:
        self.backend = backend
        registry = load_registry(())
        self.suite: Suite = load_suite(folder / "suite.toml", registry)
        self.target: Target = next(
            target for target in self.suite.targets if target.backend == backend
        )
        self.out = out
        self.loaded = Loaded()
        self.ref = suite_ref(self.suite)
        self.golden = read_golden(self.suite.golden, suite=self.suite.name)
        description = self.loaded.describe(self.ref)
        self.context: Context = make_context(
            self.suite, description, self.golden, registry
        )
        self.budgets = budgets_for(
            self.suite, self.target, self.golden.model_fingerprint
        )

    def lot(self, name: str, options: Mapping[str, Any]) -> Evidence:
        """The evidence of a lot, from its file if it is there."""
        path = self.out / f"{name}.json"
        if path.is_file():
            return evidence_from_dict(json.loads(path.read_text()))
        backend = BACKENDS[self.backend](**options)
        assert issubclass(backend.session, AnalogSession)
        ages = backend.session.ages
        registry = Registry()
        registry.add_backend(backend)

        def draw(seeds: tuple[int, ...]) -> DrawsRun:
            job = DrawsJob(
                suite=self.ref,
                backend=self.backend,
                scheme=calibrated(self.target.scheme, self.golden),
                seeds=seeds,
                ages=ages,
            )
            return run_draws(job, registry, self.loaded, lambda *_: None)

        evidence = Evidence(
            suite=self.suite.name,
            backend=self.backend,
            scheme=self.target.scheme.name,
            seed=self.suite.seed,
            budgets=self.budgets,
            device=observe(self.context, draw, determinism="drifts"),
        )
        self.out.mkdir(parents=True, exist_ok=True)
        write_json(path, evidence_as_dict(evidence))
        print(name, len(evidence.device.seeds if evidence.device else ()), flush=True)
        return evidence

    def alarms(
        self, evidence: Evidence, baseline: Evidence | None
    ) -> list[CheckResult]:
        """What the checks of devices object to in a lot beside another one.

        A lot is drawn without the one run that other checks read: that these miss it
        (`vacuous`) says nothing of the lot.
        """
        before = None
        if baseline is not None:
            before = BaselineEvidence(
                run="clean", same_environment=True, device=baseline.device
            )
        found = judge(
            dataclasses.replace(evidence, baseline=before, budgets=self.budgets)
        )
        return [
            check
            for check in found.checks
            if (check.verdict.fails or check.verdict.infrastructure)
            and check.verdict is not Verdict.VACUOUS
        ]


if __name__ == "__main__":
    main()
