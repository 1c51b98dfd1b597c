"""IBM's simulation beside ours: relative L2 of a model's outputs, by age.

Both hold the same INT8 weights; devices of the same seeds are drawn at every age, with
and without global drift compensation. The reference is the same INT8 scheme in digital
arithmetic, so that what is left is the crossbars'. A last column is the weights' own
error: what was programmed and drifted, less the target, over the target, before any
compensation.

    python benchmarks/analog/beside.py minilm --devices 5 --cases 16 --out OUT.json
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from harness.backends.aihwkit_backend import ENVIRONMENT, AihwkitBackend
from harness.backends.analog_backend import AnalogBackend
from harness.backends.registry import load_registry
from harness.backends.torch_backend import TorchBackend
from harness.environments import is_inside, launch, variables
from harness.execution.cases_run import run_cases
from harness.execution.loaded import Loaded
from harness.execution.matrix import suite_ref
from harness.execution.suite import load_suite
from harness.files import write_json
from harness.schemes.catalogue import SCHEMES

AGES = (25.0, 3600.0, 86400.0)
BACKENDS: Mapping[str, type[AnalogBackend]] = {
    "aihwkit": AihwkitBackend,
    "analog": AnalogBackend,
}


def main() -> None:
    """Draw, print a row each, keep all numbers."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("suite", type=Path)
    parser.add_argument("--devices", type=int, default=5)
    parser.add_argument("--cases", type=int, default=16)
    parser.add_argument("--out", type=Path, required=True)
    given = parser.parse_args()
    if not is_inside(ENVIRONMENT):
        sys.exit(_again_inside())
    suite = load_suite(given.suite / "suite.toml", load_registry(()))
    loaded = Loaded().get(suite_ref(suite))
    cases = loaded.cases[:: max(1, len(loaded.cases) // given.cases)][: given.cases]
    scheme = SCHEMES["int8"]

    def outputs(session: Any) -> np.ndarray[Any, Any]:
        found = run_cases(session, loaded.model, cases, batch=suite.batch).outputs
        flat = [
            np.ravel(array).astype(np.float64)
            for case in sorted(found)
            for _, array in sorted(found[case].items())
        ]
        return np.concatenate(flat)

    digital = TorchBackend("fp32", "cpu").load(loaded.model, scheme)
    reference = outputs(digital)
    digital.close()
    rows = []
    for name, kind in BACKENDS.items():
        for compensated in (True, False):
            session: Any = kind(compensated=compensated).load(loaded.model, scheme)
            for age in AGES:
                found, weights = [], []
                for seed in range(given.devices):
                    session.draw(seed, age=age)
                    error = outputs(session) - reference
                    found.append(np.linalg.norm(error) / np.linalg.norm(reference))
                    weights.append(_weights_off(session))
                row = {
                    "backend": name,
                    "compensated": compensated,
                    "age": age,
                    "output": found,
                    "weights": weights,
                }
                rows.append(row)
                deviation = np.std(found, ddof=1)
                print(
                    f"{name:8} {'compensated' if compensated else 'plain':11} "
                    f"{age:7g} s  {np.mean(found):.4f} ({deviation:.4f})  weights "
                    f"{np.mean(weights):.4f} ({np.std(weights, ddof=1):.4f})",
                    flush=True,
                )
            session.close()
    write_json(given.out, {"cases": len(cases), "scheme": "int8", "rows": rows})


def _weights_off(session: Any) -> float:
    """Relative L2 of all weights of a device, in units of each column's largest."""
    error = total = 0.0
    for layer in session._crossbars().values():  # noqa: SLF001 - what is measured
        found = layer.weights()
        error += float((found - layer.relative).double().square().sum())
        total += float(layer.relative.double().square().sum())
    return float(np.sqrt(error / total))


def _again_inside() -> int:
    here = {**os.environ, **variables(ENVIRONMENT)}
    path = [here["PYTHONPATH"], str(Path(__file__).parent)]
    here["PYTHONPATH"] = os.pathsep.join(path)
    command = [*launch(ENVIRONMENT, Path(__file__).stem), *sys.argv[1:]]
    return subprocess.run(command, env=here, check=False).returncode


if __name__ == "__main__":
    main()
