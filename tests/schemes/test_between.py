"""A model whose operators' outputs are given, and what errors of its steps do."""

from __future__ import annotations

import numpy as np
import pytest

from harness.models.torch_model import TorchModel
from harness.schemes.between import (
    CalledTwiceError,
    GivenOutputs,
    product_error,
    step_error,
)
from harness.schemes.stochastic import Perturbed

torch = pytest.importorskip("torch")

X = np.random.default_rng(3).standard_normal((4, 32)).astype(np.float32)


def normed(twice=False):
    """A residual block: norm, two layers with GELU between, and the sum."""
    torch.manual_seed(5)

    class Block(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.norm = torch.nn.LayerNorm(32)
            self.up = torch.nn.Linear(32, 64)
            self.down = torch.nn.Linear(64, 32)

        def forward(self, x):
            y = self.down(torch.nn.functional.gelu(self.up(self.norm(x))))
            return self.down(torch.relu(self.up(y))) if twice else x + y

    return TorchModel("block", Block, example={"x": X})


def observed(model):
    """Inputs and outputs of both layers, as the model itself has them."""
    module, seen = model.module(), {}
    for name in ("up", "down"):

        def keep(_, inputs, output, name=name):
            seen[f"{name}/input"], seen[name] = inputs[0].numpy(), output.numpy()

        module.get_submodule(name).register_forward_hook(keep)
    with torch.no_grad():
        (out,) = module(x=torch.from_numpy(X)).values()
    return seen, out.numpy()


def test_a_models_own_outputs_lead_to_its_own_inputs():
    """Given what it computed, what arrives is what arrived, to float32's last bits."""
    model = normed()
    seen, out = observed(model)
    arrived, given = GivenOutputs(model, ["up", "down"]).run({"x": X}, seen)

    assert ["up", "down"] == list(arrived)
    for name, found in arrived.items():
        assert found.dtype == np.float64
        np.testing.assert_allclose(found, seen[f"{name}/input"], rtol=0, atol=1e-6)
    (found,) = given.values()
    np.testing.assert_allclose(found, out, rtol=0, atol=1e-6)


def test_operators_are_not_computed_but_given():
    """Another output of the first changes what arrives at the second, and no weight."""
    model = normed()
    seen, _ = observed(model)
    oracle = GivenOutputs(model, ["up", "down"])
    zero = {**seen, "up": np.zeros_like(seen["up"])}
    arrived, given = oracle.run({"x": X}, zero)

    assert not arrived["down"].any()
    np.testing.assert_allclose(next(iter(given.values())), X + seen["down"], atol=1e-6)


def test_errors_of_every_step_are_seeded_and_as_large_as_asked():
    """Ten times the step is ten times the noise; the same seed the same noise."""
    model = normed()
    seen, _ = observed(model)
    oracle = GivenOutputs(model, ["up", "down"])
    exact = oracle.run({"x": X}, seen)[0]["down"]
    small, again, large = (
        oracle.run({"x": X}, seen, step=step, seed=9)[0]["down"] - exact
        for step in (1e-6, 1e-6, 1e-5)
    )

    assert np.array_equal(small, again)
    assert np.linalg.norm(large) == pytest.approx(10 * np.linalg.norm(small), rel=1e-3)
    assert 2e-7 < np.linalg.norm(small) / np.linalg.norm(exact) < 4e-6


def test_an_operator_that_runs_twice_is_refused():
    """Which of its outputs was observed is unknown."""
    model = normed(twice=True)
    seen, _ = observed(model)

    with pytest.raises(CalledTwiceError, match="up"):
        GivenOutputs(model, ["up", "down"]).run({"x": X}, seen)


def test_a_step_of_a_narrower_type_is_larger():
    """16 units of float32, and the roundoff of what the backend declares."""
    assert step_error("fp32", "fp32") == 17 * 2.0**-24
    assert step_error("bf16", "fp32") == 2.0**-8 + 16 * 2.0**-24
    assert step_error("fp32", "bf16") == 2.0**-8 + 16 * 2.0**-24


def test_what_cancels_gets_the_error_of_what_it_is_made_of():
    """A sum of products that is zero is off by as much as its products."""
    a = torch.ones(1, 4096, dtype=torch.float64)
    b = torch.ones(4096, 1, dtype=torch.float64)
    b[::2] = -1
    with Perturbed(1e-6, 0):
        found = a @ b

    assert 0 < abs(float(found)) < 6 * 1e-6 * 64


def test_what_is_multiplied_may_be_rounded_to_a_narrower_type():
    """Sums of products alone: a product of one factor, as angles are, is none."""
    a = torch.ones(1, 1, 4096, dtype=torch.float64)
    with Perturbed(1e-9, 0, products=1e-3):
        total, product = a @ a.mT, a.mT @ a
        plain = a + a

    assert 1e-3 / 3 < abs(float(total) - 4096) / 64 < 3e-3
    assert float((product - 1).abs().max()) < 3e-9
    assert float((plain - 2).abs().max()) < 3e-9
    assert product_error("fp16") == 2.0**-11


def test_bounded_functions_get_an_absolute_error():
    """Engines approximate them so: sigmoid(-20) is 2e-9, give or take a step."""
    x = torch.full((1000,), -20.0, dtype=torch.float64)
    with Perturbed(1e-6, 0):
        found = torch.sigmoid(x)

    assert 0.9e-6 < float(found.abs().max()) < 1.1e-6


def test_infinity_stays_infinity():
    """A mask of -inf is no NaN."""
    x = torch.full((1000,), -torch.inf, dtype=torch.float64)
    with Perturbed(1e-3, 0):
        found = x + 1

    assert torch.equal(found, x)


def test_views_and_integers_are_left_alone():
    """Nothing is rounded where nothing is computed."""
    x = torch.arange(12, dtype=torch.float64)
    with Perturbed(1e-3, 0):
        viewed, counted = x.reshape(3, 4).T[1], torch.arange(5) + 1

    assert torch.equal(viewed, x[1::4])
    assert torch.equal(counted, torch.arange(1, 6))


def test_a_step_of_zero_is_exact():
    """To the last bit."""
    x = torch.randn(50, 50, dtype=torch.float64)
    with Perturbed(0.0, 0):
        found = torch.softmax(x @ x, dim=-1)

    assert torch.equal(found, torch.softmax(x @ x, dim=-1))


def in_order(values, dtype=np.float32):
    """Sums along the last axis, one number after another."""
    return np.add.accumulate(values.astype(dtype), axis=-1)[..., -1:]


def test_a_long_softmax_may_be_summed_in_float32():
    """Small probabilities beside a large one lose their bits, all in one direction."""
    rng = np.random.default_rng(0)
    x = rng.standard_normal((40, 6625))
    x[:, 0] += 15
    powers = np.exp(x - x.max(axis=-1, keepdims=True))
    exact = powers / powers.sum(axis=-1, keepdims=True)
    backend = powers / in_order(powers)
    error = np.linalg.norm(backend - exact)
    step = step_error("fp32", "fp32")
    with Perturbed(step, 0):
        allowed = np.linalg.norm(torch.softmax(torch.from_numpy(x), -1).numpy() - exact)

    assert error > 5 * step * np.linalg.norm(exact) / np.sqrt(3)
    assert 0.8 * error < allowed < 1.25 * error


@pytest.mark.parametrize(
    ("ours", "in_float32"),
    [
        (lambda x: x.sum(1, keepdim=True), in_order),
        (
            lambda x: x.mean(1, keepdim=True),
            lambda x: in_order(x).astype(np.float64) / x.shape[1],
        ),
    ],
    ids=["sum", "mean"],
)
def test_long_sums_are_off_as_in_float32(ours, in_float32):
    """By what one number after another makes of them, on top of the step."""
    x = np.abs(np.random.default_rng(1).standard_normal((8, 100_000)))
    exact = ours(torch.from_numpy(x)).numpy()
    with Perturbed(1e-12, 0):
        found = ours(torch.from_numpy(x)).numpy()

    assert np.allclose(found, in_float32(x), rtol=1e-10)
    assert not np.allclose(found, exact, rtol=1e-8)


def test_a_long_logarithm_of_probabilities_is_off_by_its_sum():
    """All of a row by as much."""
    x = np.random.default_rng(1).standard_normal((8, 100_000))
    exact = torch.log_softmax(torch.from_numpy(x), 1).numpy()
    with Perturbed(1e-12, 0):
        found = torch.log_softmax(torch.from_numpy(x), 1).numpy()
    powers = np.exp(x - x.max(axis=-1, keepdims=True))
    off = np.log(in_order(powers) / powers.sum(axis=-1, keepdims=True))

    assert np.allclose(found - exact, -off, rtol=1e-3, atol=1e-10)


def test_short_sums_and_several_axes_keep_their_shape():
    """Kept axes or not, one or two, or nothing to add up."""
    x = torch.from_numpy(np.random.default_rng(2).standard_normal((3, 4, 5)))
    with Perturbed(1e-9, 0):
        found = [
            x.sum((1, 2)),
            x.mean((0, 2), keepdim=True),
            x.sum(-1),
            torch.zeros(2, 0, dtype=torch.float64).sum(1),
        ]

    assert [(3,), (1, 4, 1), (3, 4), (2,)] == [tuple(y.shape) for y in found]
    assert torch.allclose(found[0], x.sum((1, 2)), rtol=1e-5)
    assert torch.allclose(found[1], x.mean((0, 2), keepdim=True), rtol=1e-5, atol=1e-7)


def test_a_masked_softmax_stays_one():
    """Infinity is a probability of 0, not NaN."""
    x = torch.tensor([[0.0, 1.0, -torch.inf], [2.0, -torch.inf, -torch.inf]]).double()
    with Perturbed(1e-9, 0):
        found = torch.softmax(x, 1)

    assert torch.allclose(found, torch.softmax(x, 1), rtol=1e-6)
    assert found[1].tolist() == pytest.approx([1.0, 0.0, 0.0])
