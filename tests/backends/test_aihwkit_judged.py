"""IBM's crossbars before the whole judge: clean lots are quiet, a planted fault is not.

From the command line to the verdict, in workers that run in its environment.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest

from harness.cli.main import main
from harness.environments import interpreter
from harness.execution.api import record, run

torch = pytest.importorskip("torch")

pytestmark = [
    pytest.mark.quant_slow,
    pytest.mark.skipif(
        interpreter("aihwkit") is None, reason="not set up: quantharness setup aihwkit"
    ),
]
ROOT = Path(__file__).parents[2]
LOT = ROOT / "benchmarks" / "analog" / "lot.py"
MODEL = """
import numpy as np, torch

def make():
    torch.manual_seed(3)
    layers = torch.nn.Linear(96, 64), torch.nn.ReLU(), torch.nn.Linear(64, 8)
    return torch.nn.Sequential(*layers), {"input": np.zeros((1, 96), np.float32)}
"""
SUITE = """
[suite]
name = "tiny"
model = "aihwkit_tiny_model:make"
cases = "cases.jsonl"
reference = { backend = "torch", precision = "fp16" }
batch = 32

[[target]]
backend = "aihwkit"
scheme = "int8"
required = true

[budget]
drift = 0.6

[[behaviour]]
kind = "argmax"
name = "class"
output = "output_0"
label = "label"
margin = 0.5
"""
#: Another lot has other devices: as a rerun with other seeds.
RERUNS = 10


@pytest.fixture(scope="module")
def workplace(tmp_path_factory):
    """A suite of two layers with its golden, and a clean lot as the baseline."""
    folder = tmp_path_factory.mktemp("tiny")
    (folder / "aihwkit_tiny_model.py").write_text(MODEL)
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(folder)
        from aihwkit_tiny_model import make

        suite = folder / "suite"
        suite.mkdir()
        (suite / "suite.toml").write_text(SUITE)
        module, _ = make()
        rng = np.random.default_rng(1)
        lines = []
        for index in range(40):
            x = rng.standard_normal((1, 96)).astype(np.float32).round(3)
            label = int(module(torch.from_numpy(x)).argmax())
            entry = {"id": f"c{index}", "inputs": {"input": x.tolist()}}
            lines.append(json.dumps({**entry, "expected": {"label": label}}))
        (suite / "cases.jsonl").write_text("\n".join(lines) + "\n")
        record([suite], reason="test", allow_ci=True)
        run([suite], out=folder / "baseline", plugins=[str(LOT)])
        yield folder
    sys.modules.pop("aihwkit_tiny_model", None)


def gate(workplace, monkeypatch, out, **options):
    """The judgement of a lot beside the clean one."""
    monkeypatch.setenv("AIHWKIT", json.dumps(options))
    report = run(
        [workplace / "suite"],
        out=out,
        plugins=[str(LOT)],
        baseline=str(workplace / "baseline"),
    )
    return report.targets[0]


def test_ten_clean_reruns_are_quiet(workplace, monkeypatch, tmp_path):
    """Alone and beside a baseline of other devices."""
    for lot in range(1, RERUNS + 1):
        judged = gate(workplace, monkeypatch, tmp_path / str(lot), lot=lot)
        assert judged.exit_code == 0, (lot, judged.reason)


@pytest.mark.parametrize(
    "fault",
    [{"compensated": False}, {"bound": 0.5}, {"programming": 1.5}],
    ids=["not-compensated", "range-of-a-converter", "programming"],
)
def test_a_planted_fault_turns_the_verdict(workplace, monkeypatch, tmp_path, fault):
    """It is not what is declared, and not what the baseline was."""
    judged = gate(workplace, monkeypatch, tmp_path / "out", lot=11, **fault)
    assert str(judged.verdict) == "defect"
    assert "regression" in {str(check.verdict) for check in judged.checks}


def test_an_option_that_it_has_not_is_named(workplace, monkeypatch, capsys):
    """Exit code 2, before anything is run."""
    monkeypatch.setenv("AIHWKIT", '{"compensate": true}')
    found = main(["run", str(workplace / "suite"), "--plugin", str(LOT)])
    assert found == 2
    assert "compensate" in capsys.readouterr().err
