"""Quantized outputs are compared only where they were computed alike."""

from __future__ import annotations

import json

import numpy as np
import pytest

from harness.errors import GoldenMismatch, GoldenMissing
from harness.golden.environment import differences, environment, environment_key
from harness.golden.run_store import read_run_outputs, write_run_outputs


def test_environment_is_plain():
    """It is JSON, and names the processor and the packages that count."""
    found = environment()
    assert json.loads(json.dumps(found)) == found
    assert found["package.numpy"] == np.__version__
    assert found["machine"]


@pytest.mark.parametrize(
    "name", ["cpu_flags", "driver", "package.onnxruntime", "variable.OMP_NUM_THREADS"]
)
def test_key_changes_with_what_counts(name):
    """Kernels, drivers, versions and threads make another key; the host does not."""
    found = environment()
    assert environment_key({**found, name: "x"}) != environment_key(found)
    assert environment_key({**found, "cpu": "x", "python": "9"}) == environment_key(
        found
    )


def test_differences():
    """Each difference is named with both values."""
    found = environment()
    assert differences(found, {**found, "cpu": "other"}) == {
        "cpu": (found["cpu"], "other")
    }


def test_run_outputs(tmp_path):
    """They come back bit for bit, here, and are refused for another machine."""
    outputs = {"a": {"y": np.float32([-0.0, 1.5])}}
    here = environment()
    write_run_outputs(tmp_path, outputs)

    found = read_run_outputs(tmp_path, where=here)

    assert found["a"]["y"].tobytes() == outputs["a"]["y"].tobytes()
    other = {**here, "package.onnxruntime": "0.1", "cpu": "other"}
    with pytest.raises(
        GoldenMismatch, match=r"package\.onnxruntime .* -> 0\.1"
    ) as error:
        read_run_outputs(tmp_path, where=other)
    assert "cpu" not in str(error.value).split("(", 1)[1]
    assert read_run_outputs(tmp_path)


def test_no_outputs(tmp_path):
    """A run that kept none says so."""
    with pytest.raises(GoldenMissing):
        read_run_outputs(tmp_path)
