"""What the harness costs: `quantharness run SUITE` beside the bare model runs.

    python benchmarks/overhead/run.py [--suite suites/minilm] [--rounds 3]

The bare runs are what anyone would write: a process a backend, the model and the cases
loaded once, the FP16 reference run once, and for every target of the suite one load
and one pass over all cases in the suite's batches. The harness adds: the proof of
quantization, a repeat, a batch of one, captures of every quantized operator against the
oracle, the judging, the writing. Bare and harness alternate; printed are medians of the
rounds, of wall and of processor time, and their ratios. Also the start of the bare
interpreter, of `import harness` and of `quantharness --help`.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).parents[2]


def bare(suite_path: str, backend: str, reference: str) -> None:
    """One process of bare runs: the targets of a backend, or the reference."""
    from harness.backends.registry import load_registry
    from harness.execution.calibrated import calibrated
    from harness.execution.cases_run import run_cases
    from harness.execution.oracle_run import with_precision
    from harness.execution.suite import load_suite
    from harness.golden import read_golden
    from harness.models.cases import load_cases
    from harness.models.load import load_model

    registry = load_registry(())
    suite = load_suite(Path(suite_path) / "suite.toml", registry)
    model = load_model(suite.model, suite.folder)
    cases = load_cases(suite.cases, suite.folder, model)
    engine = registry.backend(backend)
    if reference:
        sessions = [(with_precision(engine, reference), None)]
    else:
        golden = read_golden(suite.golden, suite=suite.name)
        mine = [t.scheme for t in suite.targets if t.backend == backend]
        chosen = [calibrated(scheme, golden) for scheme in mine]
        sessions = [(engine, scheme) for scheme in chosen]
    for made, scheme in sessions:
        session = made.load(model, scheme)
        run_cases(session, model, cases, batch=suite.batch)
        session.close()


def timed(command: Sequence[str]) -> tuple[float, float]:
    """Wall and processor seconds of a command and its children."""
    before = os.times()
    start = time.perf_counter()
    subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.DEVNULL)
    wall = time.perf_counter() - start
    after = os.times()
    return wall, (after[2] + after[3]) - (before[2] + before[3])


def one_round(suite: str, backends: Sequence[str], out: Path) -> dict[str, list[float]]:
    """Bare reference, bare targets, harness: (wall, processor) each."""
    me = [sys.executable, __file__, "--bare", suite]
    reference = timed([*me, "torch", "fp16"])
    targets = [timed([*me, backend, ""]) for backend in backends]
    harness = timed([sys.executable, "-m", "harness", "run", suite, "--out", str(out)])
    return {
        "reference": list(reference),
        "targets": [sum(t[0] for t in targets), sum(t[1] for t in targets)],
        "harness": list(harness),
    }


def start_up(rounds: int) -> dict[str, float]:
    """Median wall seconds of starting."""
    commands = {
        "python -c pass": ["-c", "pass"],
        "import numpy": ["-c", "import numpy"],
        "import harness": ["-c", "import harness"],
        "quantharness --help": ["-m", "harness", "--help"],
    }
    found: dict[str, list[float]] = {name: [] for name in commands}
    for _ in range(rounds):
        for name, arguments in commands.items():
            found[name].append(timed([sys.executable, *arguments])[0])
    return {name: statistics.median(values) for name, values in found.items()}


def main() -> None:
    """Measure and print; `--json FILE` keeps the numbers."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--suite", default="suites/minilm")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--bare", nargs=3, help=argparse.SUPPRESS)
    options = parser.parse_args()
    os.environ["PYTHONPATH"] = str(ROOT)
    # As the harness's workers have it; without it the bare runs are the slower ones
    # as soon as anything else runs on the machine.
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    if options.bare:
        sys.path.insert(0, str(ROOT))
        bare(*options.bare)
        return
    rounds = []
    with tempfile.TemporaryDirectory() as folder:
        for index in range(options.rounds):
            out = Path(folder) / str(index)
            rounds.append(one_round(options.suite, ("torch", "onnxruntime"), out))
            print(json.dumps(rounds[-1]), flush=True)
    median = {
        name: [statistics.median(r[name][i] for r in rounds) for i in (0, 1)]
        for name in rounds[0]
    }
    ratios = {
        kind: median["harness"][i] / (median["reference"][i] + median["targets"][i])
        for i, kind in enumerate(("wall", "processor"))
    }
    result = {
        "suite": options.suite,
        "machine": f"{platform.machine()}, {os.cpu_count()} cores",
        "load_before": os.getloadavg()[0],
        "median_seconds_wall_processor": median,
        "ratio_to_bare": ratios,
        "start_seconds": start_up(9),
    }
    print(json.dumps(result, indent=2))
    if options.json:
        options.json.write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
