"""What torchao makes of a module runs on its own kernels and is held to its codes."""

from __future__ import annotations

import dataclasses
import importlib.util

import numpy as np
import pytest

from harness.backends.torchao_backend import TorchaoBackend
from harness.compare.explained import weight_evidence
from harness.execution.calibrated import _as_made
from harness.models.torch_model import TorchModel
from harness.schemes.catalogue import SCHEMES, scheme_from_table
from harness.schemes.quantizers import quantize_model
from tests.backends.observed import beyond

torch = pytest.importorskip("torch")
HERE = importlib.util.find_spec("torchao") is not None
#: Counted: the extra is not among those that CI installs.
needed = pytest.mark.skipif(not HERE, reason="torchao is not installed")
EMULATED = {"kernel_preference": "EMULATED"}
FP4 = {"weight_dtype": "float4_e2m1fn_x2", "activation_dtype": "float4_e2m1fn_x2"}
#: Name -> configuration, options, format of weights, whether inputs are rounded.
RECIPES = {
    "int8": ("Int8DynamicActivationInt8WeightConfig", {}, "int8", True),
    "int8 weights": ("Int8WeightOnlyConfig", {}, "int8", False),
    "int4 weights": (
        "IntxWeightOnlyConfig",
        {"weight_dtype": "int4", "granularity": 32},
        "int4",
        False,
    ),
    "fp8": ("Float8DynamicActivationFloat8WeightConfig", {}, "fp8_e4m3", True),
    "fp8 weights": ("Float8WeightOnlyConfig", {}, "fp8_e4m3", False),
    "mxfp8": ("MXDynamicActivationMXWeightConfig", EMULATED, "mxfp8_e4m3", True),
    "mxfp4": ("MXDynamicActivationMXWeightConfig", EMULATED | FP4, "mxfp4", True),
    "nvfp4 weights": ("NVFP4WeightOnlyConfig", {}, "nvfp4", False),
}


class Network(torch.nn.Module):
    """Two linear layers and a convolution, which torchao leaves alone."""

    def __init__(self):
        super().__init__()
        self.conv = torch.nn.Conv1d(4, 4, 3, padding=1)
        self.first = torch.nn.Linear(64, 96)
        self.second = torch.nn.Linear(96, 32)

    def forward(self, x):
        return {"y": self.second(torch.relu(self.first(self.conv(x))))}


@pytest.fixture(scope="module")
def model():
    """The same weights every time."""

    def make():
        torch.manual_seed(3)
        return Network()

    return TorchModel("net", make, example={"x": np.zeros((2, 4, 64), np.float32)})


def made(model, recipe, folder):
    """The scheme of what torchao made."""
    config, options, _, _ = RECIPES[recipe]
    table = {"quantizer": f"torchao:{config}", "options": options}
    scheme = scheme_from_table("made", table)
    quantize_model(scheme.quantizer, options, model, lambda: iter(()), folder / "made")
    return _as_made(scheme, folder / "made")


def worst(model, scheme, session):
    """The largest unexplained drift of each quantized operator, in units of limits."""
    x = np.random.default_rng(1).standard_normal((5, 4, 64)).astype(np.float32)
    return beyond(model, scheme, session, x, kinds=("linear",))


@needed
@pytest.mark.parametrize("recipe", RECIPES)
def test_every_operator_is_explained(recipe, model, tmp_path):
    """Torchao's kernels compute what its codes, scales and rounding of inputs say."""
    scheme = made(model, recipe, tmp_path)

    ratios = worst(model, scheme, TorchaoBackend(device="cpu").load(model, scheme))

    assert set(ratios) == {"first", "second"}
    assert max(ratios.values()) < 1


@needed
@pytest.mark.parametrize("recipe", RECIPES)
def test_the_artifact_shows_torchao_s_own_tensors(recipe, model, tmp_path):
    """Codes are those of the checkpoint, what is left alone is the model's."""
    scheme = made(model, recipe, tmp_path)
    _, _, wanted, rounded = RECIPES[recipe]

    artifact = TorchaoBackend(device="cpu").load(model, scheme).artifact()

    assert set(artifact.weights) == {"first", "second"}
    assert set(artifact.untouched) == {"conv"}
    assert set(artifact.activations) == ({"first", "second"} if rounded else set())
    for operator in model.operators():
        if operator.kind == "linear":
            shown = artifact.weights[operator.name]
            evidence = weight_evidence(operator, scheme, shown)
            assert evidence.found == wanted
            assert evidence.unexplained == 0


@needed
@pytest.mark.parametrize(
    ("recipe", "changes"),
    [
        ("int8", {"rule": None}),
        ("fp8", {"granularity": "tensor"}),
        ("mxfp4", {"rule": "floor"}),
    ],
)
def test_another_rounding_of_inputs_is_unexplained(recipe, changes, model, tmp_path):
    """The rule of the scales is part of the scheme: OCP's floor is not torchao's."""
    scheme = made(model, recipe, tmp_path)
    inputs = dataclasses.replace(scheme.activations, **changes)
    session = TorchaoBackend(device="cpu").load(model, scheme)

    ratios = worst(model, dataclasses.replace(scheme, activations=inputs), session)

    assert min(ratios.values()) > 2


@needed
def test_one_changed_scale_is_unexplained(model, tmp_path):
    """A layer whose scale is 1 % off is named."""
    scheme = made(model, "int8", tmp_path)
    session = TorchaoBackend(device="cpu").load(model, scheme)
    session.module.first.weight.scale.mul_(1.01)

    ratios = worst(model, scheme, session)

    assert ratios["first"] > 10
    assert ratios["second"] < 1


def test_only_what_torchao_made_runs_on_it(model):
    """A scheme of ours is refused, and says how one of torchao's is written."""
    found = TorchaoBackend().supports(model, SCHEMES["int8"])

    assert not found.supported
    assert 'quantizer = "torchao:CONFIG"' in found.reason


def test_a_probe_never_raises_and_says_what_adds_it(monkeypatch):
    """Without the package the extra is named."""
    real = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util,
        "find_spec",
        lambda name: None if name == "torchao" else real(name),
    )

    found = TorchaoBackend().probe()

    assert not found.available
    assert "quantharness[torchao]" in found.reason
