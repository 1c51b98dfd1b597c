"""torch.compile as a backend: really compiled, or an error."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from harness.backends.torch_backend import TorchBackend
from harness.backends.torch_compile_backend import CompiledSession, TorchCompileBackend
from harness.compare.explained import Explained
from harness.errors import BackendError
from harness.judge.statistics.quadratic import energy_factor
from harness.models.torch_model import TorchModel
from harness.schemes.catalogue import SCHEMES


class Small(torch.nn.Module):
    """Two layers and what inductor fuses between them."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.a = torch.nn.Linear(64, 48)
        self.b = torch.nn.Linear(48, 8)

    def forward(self, x):
        return self.b(torch.nn.functional.gelu(self.a(x)))


@pytest.fixture
def model():
    """A user's module."""
    module = Small()
    return TorchModel("small", lambda: module, example={"x": np.ones((2, 64), "f4")})


@pytest.mark.quant_slow
def test_a_compiled_module_is_explained_and_watched_alike(model):
    """Captured tensors are outputs of the compiled function; both give one output."""
    x = np.random.default_rng(1).standard_normal((8, 64)).astype(np.float32)
    scheme = SCHEMES["fp8_e4m3"]
    session = TorchCompileBackend().load(model, scheme)
    outputs = session.run({"x": x}, capture=["a", "b"])
    plain = session.run({"x": x})
    explained = Explained(scheme, session.arithmetic())
    for operator in model.operators():
        name = operator.name
        explained.add(operator, outputs[f"{name}/input"], outputs[name])

    for entry in explained.result():
        limit = energy_factor(0.001) * math.sqrt(entry.explained_sq)
        assert math.sqrt(entry.residual_sq) <= limit
    (name,) = plain
    assert np.allclose(plain[name], outputs[name], rtol=1e-5, atol=1e-6)
    assert "compiled by inductor" in session.arithmetic().detail


def test_nothing_compiled_is_an_error(model, monkeypatch):
    """When everything runs eagerly it is not passed off as compiled."""
    monkeypatch.setattr(torch, "compile", lambda function: function)
    session = TorchCompileBackend().load(model, None)

    assert isinstance(session, CompiledSession)
    with pytest.raises(BackendError, match="graphs compiled=0"):
        session.run({"x": np.ones((2, 64), np.float32)})


def test_without_a_compiler_it_is_not_available(monkeypatch):
    """Said by the probe, before anything is loaded."""
    monkeypatch.setenv("CXX", "no-such-compiler")
    found = TorchCompileBackend().probe()

    assert not found.available
    assert "no-such-compiler" in found.reason


def test_a_variant_checks_the_instructions_in_force(model):
    """`torch@avx2` in a process that was not started for it raises."""
    found = torch.backends.cpu.get_cpu_capability()
    TorchBackend(capability=found).load(model, None)
    with pytest.raises(BackendError, match="ATEN_CPU_CAPABILITY=none"):
        TorchBackend(capability="NONE").load(model, None)


def test_a_closed_session_raises(model):
    """And closing twice does nothing."""
    session = TorchBackend("fp32").load(model, None)
    session.close()
    session.close()
    with pytest.raises(BackendError, match="closed"):
        session.run({"x": np.ones((2, 64), np.float32)})
