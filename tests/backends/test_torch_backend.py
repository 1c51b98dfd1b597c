"""PyTorch as a backend: what it runs, shows and declares."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from harness.backends.protocol import Backend, Session
from harness.backends.torch_backend import TorchBackend
from harness.compare.explained import weight_evidence
from harness.errors import UnsupportedError
from harness.models.torch_model import TorchModel
from harness.schemes.catalogue import SCHEMES
from harness.schemes.types import Scheme, TensorScheme
from tests.backends.observed import furthest, largest_inputs

torch = pytest.importorskip("torch")
NATIVE = {"fp8_e4m3": "torch._scaled_mm", "int8": "torch._int_mm"}


def make():
    """Conv2d -> depthwise Conv2d -> two Linear layers, one without a bias."""
    torch.manual_seed(4)

    class Small(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = torch.nn.Conv2d(24, 32, 3, padding=1)
            self.deep = torch.nn.Conv2d(32, 32, 3, stride=2, groups=32)
            self.fc = torch.nn.Linear(96, 48)
            # Rows of different sizes, or rolled scales would be the same scales.
            self.fc.weight.data *= torch.exp2(-(torch.arange(48) % 5.0))[:, None]
            self.head = torch.nn.Linear(48, 20, bias=False)

        def forward(self, x):
            y = torch.relu(self.conv(x))
            y = self.deep(y).reshape(x.shape[0], 3, 96)
            return self.head(torch.sigmoid(self.fc(y)))

    return Small()


@pytest.fixture(scope="module")
def x():
    """Three samples."""
    return np.random.default_rng(6).standard_normal((3, 24, 8, 8)).astype(np.float32)


@pytest.fixture(scope="module")
def model(x):
    """A user's own module."""
    return TorchModel("small", make, example={"x": x})


@pytest.fixture(scope="module")
def calibration(model, x):
    """The largest input of every operator of the unquantized model."""
    return largest_inputs(model, TorchBackend("fp32").load(model, None), x)


@pytest.fixture
def load(model, calibration):
    """A session of a shipped scheme, calibrated."""

    def made(name):
        scheme = dataclasses.replace(SCHEMES[name], calibration=calibration)
        return scheme, TorchBackend(device="cpu").load(model, scheme)

    return made


def test_it_is_a_backend(model):
    """The protocol's members are there, and a probe says what is installed."""
    found = TorchBackend().probe()

    assert isinstance(TorchBackend(), Backend)
    assert isinstance(TorchBackend().load(model, None), Session)
    assert found.available
    assert found.version == torch.__version__


@pytest.mark.parametrize("name", sorted(SCHEMES))
def test_every_operator_is_explained(name, model, x, load):
    """Native kernel or emulation: what the scheme says, up to accumulation noise."""
    scheme, session = load(name)

    assert furthest(model, scheme, session, x)[1] < 1


@pytest.mark.parametrize("name", sorted(SCHEMES))
def test_the_artifact_is_bit_faithful_and_small(name, model, load):
    """Decoded from the stored bytes each weight is numerics' own; none is float."""
    scheme, session = load(name)
    artifact = session.artifact()

    for operator in model.operators():
        if operator.name in artifact.untouched:
            assert np.array_equal(artifact.untouched[operator.name], operator.weight)
            continue
        shown = artifact.weights[operator.name]
        evidence = weight_evidence(operator, scheme, shown)
        assert evidence.found == scheme.weights.format
        assert evidence.unexplained == 0
        assert evidence.nonfinite_scales == evidence.unusable_scales == 0
        assert shown.nbytes < operator.weight.nbytes / 2
    assert {"conv", "fc", "head"} <= set(artifact.weights)
    expected = set() if scheme.weight_only else set(artifact.weights)
    assert set(artifact.activations) == expected


@pytest.mark.parametrize("name", sorted(SCHEMES))
def test_it_says_which_kernels_ran(name, load):
    """Native where this machine has a kernel for the scheme, emulated elsewhere."""
    scheme, session = load(name)
    declared = session.arithmetic()
    kernel = NATIVE.get(scheme.weights.format)
    if kernel and scheme.activations is not None:
        # Of the four operators the two linear ones.
        assert declared.execution == "mixed"
        assert f"2 by {kernel}" in declared.detail
    else:
        assert declared.execution == "emulated"
        assert "emulated in fp32" in declared.detail


@pytest.mark.parametrize("name", sorted(NATIVE))
def test_a_native_kernel_computes_what_emulation_computes(name, x, load):
    """Each against the other, on the same layer: far below one quantization step."""
    _, session = load(name)
    layer = session._module.get_submodule("fc")
    rows = torch.from_numpy(x.reshape(-1, 96))
    native, emulated = layer._native(rows), layer._emulated(rows)
    full = torch.nn.functional.linear(
        rows, torch.from_numpy(layer.operator.weight), layer.bias
    )

    assert layer.native
    quantization = torch.linalg.norm(emulated - full)
    assert torch.linalg.norm(native - emulated) < 1e-3 * quantization


def roll(layer):
    """Scales by one along the output channels or blocks."""
    layer.stored.scales.copy_(layer.stored.scales.roll(1, dims=0))


def enlarge(layer):
    """All scales 0.2% too large: less than a tenth of the quantization error."""
    layer.stored.scales.mul_(1.002)


def swap(layer):
    """The nibbles of every byte."""
    codes = layer.stored.codes
    codes.copy_(codes >> 4 | codes << 4)


def forget(layer):
    """The bias."""
    layer.bias.zero_()


@pytest.mark.parametrize(
    ("name", "defect"),
    [
        ("fp8_e4m3", roll),
        ("fp8_weight_only", enlarge),
        ("int8", roll),
        ("int8", enlarge),
        ("mxfp8", roll),
        ("nvfp4", roll),
        ("mxfp4", swap),
        ("int4", swap),
        ("int4", enlarge),
        ("nvfp4", forget),
    ],
)
def test_a_one_line_defect_names_its_operator(name, defect, model, x, load):
    """Planted in one layer: only that one is beyond its limit."""
    scheme, session = load(name)
    defect(session._module.get_submodule("fc"))

    guilty, ratio = furthest(model, scheme, session, x)
    assert guilty == "fc"
    assert ratio > 10


def test_captures_are_the_models_own_chain(model, x, load):
    """Inputs before quantization, outputs with the bias, only what was asked for."""
    _, session = load("fp8_e4m3")
    outputs = session.run({"x": x}, capture=["conv", "deep"])

    assert np.array_equal(outputs["conv/input"], x)
    assert np.array_equal(outputs["deep/input"], np.maximum(outputs["conv"], 0))
    assert "fc" not in outputs
    assert outputs.timings["run"] > 0
    assert "conv" not in session.run({"x": x})


def test_runs_repeat_to_the_bit(x, load):
    """Declared exact, and exact: with captures, too."""
    for name in ("fp8_e4m3", "int8", "nvfp4"):
        _, session = load(name)
        (output,) = session.run({"x": x})
        first = session.run({"x": x})[output]
        assert np.array_equal(first, session.run({"x": x})[output])
        assert np.array_equal(first, session.run({"x": x}, capture=["fc"])[output])


def test_threads_come_from_the_environment(model, monkeypatch):
    """QUANTHARNESS_THREADS sets how many; the harness measures what that changes."""
    before = torch.get_num_threads()
    monkeypatch.setenv("QUANTHARNESS_THREADS", "1")
    try:
        TorchBackend().load(model, None)
        assert torch.get_num_threads() == 1
    finally:
        torch.set_num_threads(before)


def test_the_reference_says_what_its_precision_is(model):
    """FP16 is stored and rounded after every operation; probed, not assumed."""
    half = TorchBackend("fp16", device="cpu").load(model, None).precision_report()
    wide = TorchBackend("fp32", device="cpu").load(model, None).precision_report()

    assert half["stored"] == ["float16"]
    assert half["overflowed"]
    assert "true FP16" in half["statement"]
    assert not wide["overflowed"]


def test_an_unknown_precision_is_refused(model):
    """Not silently another one."""
    with pytest.raises(UnsupportedError, match="fp12"):
        TorchBackend("fp12").load(model, None)


def test_a_format_it_does_not_store_is_unsupported_by_name(model):
    """With every operator named."""
    scheme = Scheme(
        name="odd", weights=TensorScheme(format="mxfp6_e2m3", granularity="block")
    )
    found = TorchBackend().supports(model, scheme)

    assert not found.supported
    assert "mxfp6_e2m3" in found.reason
    assert set(found.operators) == {o.name for o in model.operators()}


@pytest.mark.parametrize(
    ("fmt", "granularity", "rule"),
    [("mxfp4", "block", "ceil"), ("int8", "row", "full"), ("int8", "row", "pow2")],
)
def test_another_scale_rule_for_activations_is_refused(model, fmt, granularity, rule):
    """The rule is part of the format's identity."""
    tensor = TensorScheme(format=fmt, granularity=granularity)
    other = dataclasses.replace(tensor, rule=rule)
    scheme = Scheme(name="odd", weights=tensor, activations=other)

    with pytest.raises(UnsupportedError, match=rule):
        TorchBackend().load(model, scheme)


@pytest.mark.quant_gpu
@pytest.mark.parametrize("name", sorted(SCHEMES))
def test_cuda_computes_what_the_scheme_says(name, model, x, calibration):
    """The same on the GPU, its own FP8 kernels included."""
    scheme = dataclasses.replace(SCHEMES[name], calibration=calibration)
    session = TorchBackend(device="cuda:0").load(model, scheme)

    assert furthest(model, scheme, session, x)[1] < 1


def test_nf4_is_stored_and_never_rounded_to(model):
    """Weights alone: nobody rounds inputs to it."""
    assert TorchBackend().supports(model, SCHEMES["nf4"]).supported
    inputs = TensorScheme(format="nf4", granularity="block", block=64)
    scheme = dataclasses.replace(SCHEMES["nf4"], activations=inputs)
    support = TorchBackend().supports(model, scheme)

    assert not support.supported
    assert "nf4 is not rounded to by the torch backend" in support.reason
