"""Planting between operators, in torch and in a graph of the same model."""

from __future__ import annotations

import numpy as np
import pytest

from harness.backends.onnxruntime_backend import OnnxRuntimeBackend
from harness.backends.torch_backend import TorchBackend
from harness.backends.torch_compile_backend import TorchCompileBackend
from harness.defects import DEFECTS, PlantedBackend, Planting
from harness.defects.between.catalogue import BETWEEN, split_factor
from harness.errors import UnsupportedError
from harness.models.torch_model import TorchModel
from harness.models.types import TensorSpec
from harness.schemes.catalogue import SCHEMES

torch = pytest.importorskip("torch")
pytest.importorskip("onnxruntime")
X = np.random.default_rng(5).standard_normal((2, 6, 16)).astype(np.float32)
#: Weights alone are quantized: an input's scale would make both engines differ by more.
SCHEME = SCHEMES["fp8_weight_only"]


class Block(torch.nn.Module):
    """Attention and a gate with everything that can lie between operators."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.norm = torch.nn.LayerNorm(16)
        self.query, self.key, self.out = (torch.nn.Linear(16, 16) for _ in range(3))

    def forward(self, x):
        """(B, T, 16) to the same."""
        h = self.norm(x)
        scores = self.query(h) @ self.key(h).transpose(1, 2)
        h = torch.softmax(scores / 4, dim=-1) @ h
        return {"y": x + torch.tanh(self.out(h))}


class Plain(torch.nn.Module):
    """Nothing between two layers."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.first, self.second = (torch.nn.Linear(16, 16) for _ in range(2))

    def forward(self, x):
        """(B, T, 16) to the same."""
        return {"y": self.second(self.first(x))}


def model_of(module):
    """The module as a suite's model."""
    spec = TensorSpec("x", "float32", (None, None, 16))
    out = TensorSpec("y", "float32", (None, None, 16))
    return TorchModel("block", module, inputs=(spec,), outputs=(out,), example={"x": X})


def output(backend, model, planting=None):
    """What a backend gives, with a defect or without, and what fired."""
    if planting is not None:
        backend = PlantedBackend(backend, planting)
    session = backend.load(model, SCHEME)
    try:
        return session.run({"x": X})["y"], planting and backend.fired()
    finally:
        session.close()


@pytest.mark.parametrize("name", [defect.name for defect in BETWEEN])
def test_two_engines_are_wrong_in_the_same_way(name):
    """The defect is the model's, not the engine's: both move, and to the same place."""
    model = model_of(Block)
    engines = (TorchBackend(), OnnxRuntimeBackend())

    right = [output(engine, model)[0] for engine in engines]
    wrong = [output(engine, model, Planting(defect=name)) for engine in engines]

    moved = [np.abs(w - r).max() for (w, _), r in zip(wrong, right, strict=True)]
    assert min(moved) > 1e-4
    np.testing.assert_allclose(wrong[0][0], wrong[1][0], atol=0.02 * min(moved))
    assert [fired for _, fired in wrong] == [("between",), ("between",)]


@pytest.mark.parametrize("name", [defect.name for defect in BETWEEN])
def test_an_operators_own_steps_are_left_alone(name):
    """The bias that a layer adds is no branch, its rounding no activation."""
    model, planting = model_of(Plain), Planting(defect=name)

    wrong, fired = output(TorchBackend(), model, planting)

    np.testing.assert_array_equal(wrong, output(TorchBackend(), model)[0])
    assert not fired
    with pytest.raises(UnsupportedError, match="fits nowhere: the graph has no"):
        output(OnnxRuntimeBackend(), model, planting)


def test_what_inductor_compiled_is_not_open():
    """A refusal instead of a defect that never fires."""
    planting = Planting(defect="branch_ratio")
    with pytest.raises(UnsupportedError, match="not open to us"):
        PlantedBackend(TorchCompileBackend(), planting).load(model_of(Block), SCHEME)


@pytest.mark.parametrize("bits", [3, 7, 10])
def test_so_many_bits_of_mantissa_are_kept(bits):
    """Of float32, to the nearest: what NumPy's ldexp gives."""
    x = np.random.default_rng(1).standard_normal(4096).astype(np.float32)
    large = x * np.float32(split_factor(bits))
    found = large - (large - x)

    fraction, exponent = np.frexp(x.astype(np.float64))
    expected = np.ldexp(np.rint(fraction * 2 ** (bits + 1)), exponent - bits - 1)
    np.testing.assert_array_equal(found, expected)


def test_the_catalogue_has_them():
    """Under their names, as belonging to no operator."""
    assert {defect.name for defect in BETWEEN} <= set(DEFECTS)
    assert {defect.place for defect in BETWEEN} == {"between"}
