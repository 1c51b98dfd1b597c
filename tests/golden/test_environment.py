"""Quantized outputs are compared only where they were computed alike."""

from __future__ import annotations

import json

import numpy as np
import pytest

from harness.errors import GoldenMismatch, GoldenMissing
from harness.golden.environment import (
    differences,
    environment,
    environment_key,
    since,
)
from harness.golden.run_store import (
    read_run_outputs,
    target_environment,
    write_run_outputs,
)


def test_environment_is_plain():
    """It is JSON, and names the processor and the packages that count."""
    found = environment()
    assert json.loads(json.dumps(found)) == found
    assert found["package.numpy"] == np.__version__
    assert found["machine"]


def test_environments_of_their_own_are_noted(monkeypatch):
    """Which versions a backend's own environment holds; baselines stay comparable."""
    monkeypatch.setattr("harness.golden.environment.interpreter", lambda _: None)
    bare = environment()
    monkeypatch.setattr("harness.golden.environment.interpreter", str)
    made = environment()

    assert {"environment.iree", "environment.quark"} <= differences(bare, made).keys()
    assert environment_key(bare) == environment_key(made)


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


def keep(folder):
    """Outputs of a backend here; the environment they belong to."""
    outputs = {"a": {"y": np.float32([-0.0, 1.5])}}
    here = target_environment("onnxruntime", "1.32.0", "cpu")
    write_run_outputs(folder, outputs, where=here)
    return outputs, here


def test_since_compares_what_both_noted():
    """A variable set today counts; what was not noted there, or who recorded, not."""
    there = environment() | {"cpu": "another", "reference_backend": "torch"}
    del there["variable.GLIBC_TUNABLES"]
    assert since(there) == {"cpu": ("another", environment()["cpu"])}
    assert since(environment() | {"package.quantharness": "0.1"}) == {}


def test_run_outputs(tmp_path):
    """They come back bit for bit, whatever differs that decides no kernel."""
    outputs, here = keep(tmp_path)
    other = {**here, "cpu": "x", "variable.OMP_NUM_THREADS": "7", "package.torch": "x"}

    for where in (here, other, None):
        found = read_run_outputs(tmp_path, where=where)
        assert found["a"]["y"].tobytes() == outputs["a"]["y"].tobytes()


@pytest.mark.parametrize(
    "name", ["cpu_flags", "machine", "driver", "backend_device", "backend_version"]
)
def test_run_outputs_of_another_environment(tmp_path, name):
    """Another hardware class or backend version is refused, and only that is named."""
    _, here = keep(tmp_path)
    other = {**here, name: "0.1", "cpu": "other"}
    with pytest.raises(GoldenMismatch, match=rf"{name} .* -> 0\.1") as error:
        read_run_outputs(tmp_path, where=other)
    assert "cpu other" not in str(error.value)


def test_across_versions(tmp_path):
    """A person may ask for another version's, never for another hardware's."""
    _, here = keep(tmp_path)
    newer = {**here, "backend_version": "1.33.0"}

    with pytest.raises(GoldenMismatch, match="--across-versions"):
        read_run_outputs(tmp_path, where=newer)
    assert read_run_outputs(tmp_path, where=newer, across_versions=True)
    with pytest.raises(GoldenMismatch) as error:
        read_run_outputs(
            tmp_path, where={**newer, "machine": "x"}, across_versions=True
        )
    assert "--across-versions" not in str(error.value)


def test_no_outputs(tmp_path):
    """A run that kept none says so."""
    with pytest.raises(GoldenMissing):
        read_run_outputs(tmp_path)
