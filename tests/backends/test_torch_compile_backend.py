"""torch.compile as a backend: really compiled, or an error."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch._inductor.exc import InductorError

from harness.backends.registry import load_registry
from harness.backends.torch_backend import TorchBackend
from harness.backends.torch_compile_backend import CompiledSession, TorchCompileBackend
from harness.compare.explained import Explained
from harness.errors import BackendError, UnsupportedError
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
    assert "run-to-run" == session.arithmetic().determinism


class Transposed(torch.nn.Module):
    """Channels first, as a convolution leaves them, then a linear layer."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.layer = torch.nn.Linear(64, 48)

    def forward(self, x):
        return self.layer(x.transpose(1, 2))


@pytest.mark.quant_slow
@pytest.mark.parametrize("scheme", ["fp8_e4m3", "int8"])
def test_a_transposed_input_compiles(scheme):
    """Inductor and CUDA take rows only, where eager kernels on the CPU take either."""
    x = np.random.default_rng(1).standard_normal((1, 64, 24)).astype(np.float32)
    model = TorchModel("transposed", Transposed, example={"x": x})
    found = [
        backend.load(model, SCHEMES[scheme]).run({"x": x})
        for backend in (TorchBackend(), TorchCompileBackend())
    ]
    (name,) = found[0]

    assert np.allclose(found[0][name], found[1][name], rtol=1e-5, atol=1e-6)


class Tail(torch.nn.Module):
    """Rows of 48: a block of 32 and half of one."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.layer = torch.nn.Linear(48, 24)

    def forward(self, x):
        return self.layer(x)


@pytest.mark.quant_slow
def test_scales_that_are_gathered_reach_the_tail_of_a_row():
    """Repeated and cut they do not: see test_torch_findings.py."""
    x = np.random.default_rng(1).standard_normal((4, 48)).astype(np.float32)
    model = TorchModel("tail", Tail, example={"x": x})
    scheme = SCHEMES["mxfp8_weight_only"]
    (name,) = plain = TorchBackend().load(model, scheme).run({"x": x})
    torch.compiler.reset()
    compiled = load_registry().backend("torch-compile@gathered").load(model, scheme)

    assert np.allclose(plain[name], compiled.run({"x": x})[name], rtol=1e-5, atol=1e-6)


def test_what_inductor_refuses_is_unsupported(model, monkeypatch):
    """A line of why; the graph that inductor prints stays in its log."""

    def refuse(function):
        def call(feeds):
            raise InductorError(
                RuntimeError("no such kernel\n  args[0]: TensorBox("), None
            )

        return call

    monkeypatch.setattr(torch, "compile", refuse)
    session = TorchCompileBackend().load(model, None)
    with pytest.raises(UnsupportedError, match=r"does not compile .*such kernel$"):
        session.run({"x": np.ones((2, 64), np.float32)})


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
