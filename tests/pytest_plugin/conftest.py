"""A small real suite: a torch module of two layers, recorded once."""

import shutil
from importlib.metadata import entry_points
from pathlib import Path

import pytest

import harness
from harness.execution.api import record

FACTORY = """\
import torch

def made():
    torch.manual_seed(20)
    return torch.nn.Sequential(
        torch.nn.Linear(64, 96), torch.nn.ReLU(), torch.nn.Linear(96, 8)
    ), {"input": torch.zeros(1, 64)}
"""
SUITE = """\
[suite]
name = "tiny"
model = "tiny_module:made"
cases = "tiny_module_cases:cases"

[[target]]
backend = "torch"
scheme = "fp8_weight_only"

[[target]]
backend = "torch"
scheme = "int8"

[budget]
drift = 0.5
"""
CASES = """\
import numpy as np
from harness.models.types import Case

def cases():
    draw = np.random.default_rng(3)
    return [
        Case(id=f"c{i}", inputs={"input": draw.normal(size=(1, 64)).astype(np.float32)})
        for i in range(12)
    ]
"""
#: A plugin whose backend computes another thing than the scheme says.
PLANTED = """\
from harness.backends.torch_backend import TorchBackend

class Session:
    def __init__(self, inner): self.inner = inner
    def __getattr__(self, name): return getattr(self.inner, name)
    def run(self, inputs, *, capture=()):
        outputs = self.inner.run(inputs, capture=capture)
        for name in list(outputs):
            outputs._arrays[name] = outputs[name] * 1.01
        return outputs

class Planted(TorchBackend):
    def __init__(self):
        super().__init__()
        self.name = "planted"
    def load(self, model, scheme):
        session = super().load(model, scheme)
        return session if scheme is None else Session(session)

def register(registry):
    registry.add_backend(Planted())
"""


@pytest.fixture
def planted(suite):
    """The suite on a backend that computes something else; its plugin's file."""
    file = suite / "suite.toml"
    file.write_text(file.read_text().replace('"torch"', '"planted"'))
    plugin = suite.parent / "planted.py"
    plugin.write_text(PLANTED)
    return plugin


def write(folder, text=SUITE):
    """The suite's files."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "tiny_module.py").write_text(FACTORY)
    (folder / "tiny_module_cases.py").write_text(CASES)
    (folder / "suite.toml").write_text(text)
    return folder


@pytest.fixture(scope="session")
def recorded(tmp_path_factory):
    """The suite with its golden."""
    folder = write(tmp_path_factory.mktemp("recorded") / "tiny")
    result = record([folder], reason="test", allow_ci=True)
    assert ["recorded"] == [suite.status for suite in result.suites]
    return folder


@pytest.fixture
def unrecorded(pytester):
    """The suite without a golden, where pytester runs."""
    return write(pytester.path / "tiny")


@pytest.fixture
def suite(pytester, recorded):
    """The recorded suite, where pytester runs."""
    return shutil.copytree(recorded, pytester.path / "tiny")


@pytest.fixture
def quant(pytester, monkeypatch):
    """Runs pytest with the plugin, installed or not."""
    monkeypatch.setenv("PYTHONPATH", str(Path(harness.__file__).parents[1]))
    # A CI machine records nothing; these tests do.
    monkeypatch.delenv("CI", raising=False)
    installed = any(
        point.value == "harness.pytest_plugin"
        for point in entry_points(group="pytest11")
    )
    plugin = () if installed else ("-p", "harness.pytest_plugin")

    def run(*arguments):
        return pytester.runpytest_subprocess(
            *plugin, "-p", "no:cacheprovider", *arguments
        )

    return run
