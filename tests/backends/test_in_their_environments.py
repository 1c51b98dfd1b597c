"""Tests of engines that live in environments of their own, run there."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from harness.environments import interpreter, launch, variables

HERE = Path(__file__).parent
FILES = {
    "aihwkit": ("test_aihwkit_backend.py", "test_aihwkit_findings.py"),
    "iree": ("test_iree_backend.py", "test_iree_findings.py"),
}


@pytest.mark.quant_slow
@pytest.mark.parametrize("name", FILES)
def test_they_pass_there(name, tmp_path):
    """Everything, the slow ones too; strict xfails included."""
    if interpreter(name) is None:
        pytest.skip(f"not set up: quantharness setup {name}")
    environment = {**os.environ, **variables(name)}
    root = str(HERE.parents[1])
    environment["PYTHONPATH"] += os.pathsep + root
    command = launch(name, "pytest")
    files = [str(HERE / file) for file in FILES[name]]

    found = subprocess.run(
        [*command, "-q", "-p", "no:cacheprovider", f"--basetemp={tmp_path}/t", *files],
        cwd=root,
        env=environment,
        capture_output=True,
        text=True,
    )

    assert found.returncode == 0, found.stdout[-3000:]
    assert " passed" in found.stdout
    assert sys.executable not in command
