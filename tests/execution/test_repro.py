"""A failing target becomes a folder that runs and fails, and passes once mended."""

from __future__ import annotations

import json
import subprocess
import sys

import numpy as np
import pytest

from harness.cli.main import main
from harness.execution.api import explain

pytestmark = pytest.mark.quant_slow
PLUGIN = """
from harness.backends.torch_backend import TorchBackend
from harness.defects import PlantedBackend, Planting


def register(registry):
    planting = Planting(defect="scales_shifted_along_k", operator="node_linear_1")
    registry.add_backend(PlantedBackend(TorchBackend(), planting))
"""


@pytest.fixture(scope="module")
def failing(tmp_path_factory):
    """A run of vad on a torch whose one layer reads its neighbour's scales."""
    folder = tmp_path_factory.mktemp("failing")
    plugin = folder / "planted.py"
    plugin.write_text(PLUGIN)
    arguments = ["run", "suites/vad", "--backend", "torch", "--scheme", "mxfp8"]
    code = main([*arguments, "--plugin", str(plugin), "--out", str(folder / "run")])
    assert code == 1
    return folder


def test_the_run_names_operator_and_cause(failing):
    """In the report that every surface shows."""
    (target,) = explain(failing / "run").targets

    assert target.diagnosis[0]["operator"] == "node_linear_1"
    assert target.diagnosis[0]["defect"] == "scales shifted along K"
    assert "Cause" in (failing / "run" / "report.html").read_text()


def test_the_repro_fails_while_the_defect_is_there_and_not_after(failing, capsys):
    """A script of its own process: 1 with the plugin, 0 when that is mended."""
    plugin = failing / "planted.py"
    code = main(
        ["explain", str(failing / "run"), "--repro", "--plugin", str(plugin), "--json"]
    )
    folder = json.loads(capsys.readouterr().out)["repro"]

    def reproduce():
        script = f"{folder}/repro.py"
        done = subprocess.run(
            [sys.executable, script], capture_output=True, text=True, check=False
        )
        return done.returncode, done.stdout

    wrong = reproduce()
    plugin.write_text("def register(registry):\n    pass\n")
    right = reproduce()

    assert code == 0
    assert wrong[0] == 1
    assert "node_linear_1: unexplained=" in wrong[1]
    assert right[0] == 0
    inputs = np.load(f"{folder}/inputs.npz", allow_pickle=False)
    assert max(array.size for array in inputs.values()) < 100_000
    assert np.load(f"{folder}/operator.npz")["observed"].size > 0


@pytest.mark.parametrize("kind", ["svg", "png", "pdf"])
def test_the_picture_is_written(failing, kind):
    """Of a kind that its reader can open."""
    pytest.importorskip("matplotlib")
    path = failing / f"plot.{kind}"

    assert main(["explain", str(failing / "run"), "--plot", str(path)]) == 0

    magic = {"svg": b"<?xml", "png": b"\x89PNG", "pdf": b"%PDF"}[kind]
    assert path.read_bytes().startswith(magic)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--plot", "x.gif"], "should end in one of .svg, .png, .pdf"),
        (["--repro", "--suite", "suites/ocr"], "name its folder with --suite"),
    ],
)
def test_wrong_usage_is_exit_2(failing, arguments, message, capsys):
    """With what to do."""
    assert main(["explain", str(failing / "run"), *arguments]) == 2
    assert message in capsys.readouterr().err
