"""IBM's crossbars as a backend: what they are, declare and refuse."""

from __future__ import annotations

import importlib.util
import sys

import numpy as np
import pytest

from harness.backends.aihwkit_backend import AihwkitBackend
from harness.backends.aihwkit_device import Converter, compensation, moments
from harness.backends.analog_device import (
    Cells,
    decades,
    exponents,
    programming_noise,
    read_noise,
)
from harness.backends.protocol import Backend, Session
from harness.backends.registry import Registry, load_registry
from harness.environments import VARIABLE
from harness.errors import BackendError
from harness.execution.draws import run_draws
from harness.execution.jobs import DrawsJob, SuiteRef
from harness.execution.loaded import LoadedSuite
from harness.models.torch_model import TorchModel
from harness.models.types import Case
from harness.schemes.catalogue import SCHEMES
from harness.schemes.oracle import OperatorOracle
from tests.backends.analog_network import network, output, samples

torch = pytest.importorskip("torch")

#: Run by `test_in_their_environments.py`, in its own.
installed = pytest.mark.skipif(
    importlib.util.find_spec("aihwkit") is None,
    reason="aihwkit is not here, but in its own environment: quantharness setup",
)
DAY = 86400.0
#: Two-sided, in standard errors: one clean comparison in 1.7 million is further off.
APART = 5.0


@pytest.fixture(scope="module")
def x():
    """Two samples."""
    return samples()


@pytest.fixture(scope="module")
def model():
    """A Conv2d, a Conv1d with dilation, a Linear layer."""
    return network(padding=2)


@pytest.fixture
def load(model):
    """A session of int8."""

    def open_session(**options):
        return AihwkitBackend(**options).load(model, SCHEMES["int8"])

    return open_session


def test_it_says_how_it_is_made(tmp_path, monkeypatch):
    """Nothing but the one command, where its environment was not made."""
    monkeypatch.setenv("QUANTHARNESS_CACHE", str(tmp_path))
    monkeypatch.delenv(VARIABLE, raising=False)
    backend = load_registry().backend("aihwkit")
    found = backend.probe()

    assert isinstance(backend, Backend)
    assert backend.own_environment == "aihwkit"
    assert not found.available
    assert "`quantharness setup aihwkit`" in found.reason
    assert "10 minutes" in found.reason


def test_a_broken_install_is_not_available(monkeypatch):
    """Inside its environment it is imported, not believed."""
    monkeypatch.setenv(VARIABLE, "aihwkit")
    monkeypatch.setitem(sys.modules, "aihwkit.nn.conversion", None)
    found = AihwkitBackend().probe()
    assert not found.available
    assert found.reason.startswith("does not import: ")


def test_loading_it_elsewhere_says_what_is_missing(model, monkeypatch):
    """One line with the command, not an ImportError."""
    monkeypatch.setitem(sys.modules, "aihwkit.nn.conversion", None)
    with pytest.raises(BackendError, match="`quantharness setup aihwkit`"):
        AihwkitBackend().load(model, SCHEMES["int8"])


@pytest.mark.parametrize("scheme", ["fp8_e4m3", "mxfp8", "int4"])
def test_only_int8_goes_through_converters(model, scheme):
    """Every other format is refused, with every operator named."""
    found = AihwkitBackend().supports(model, SCHEMES[scheme])
    assert not found.supported
    assert set(found.operators) == {"flat", "deep", "fc"}
    assert AihwkitBackend().supports(model, SCHEMES["int8"]).supported


def test_grouped_convolutions_are_refused_by_name():
    """Of what the scheme quantizes; the rest may be what it likes."""
    example = {"input": np.zeros((1, 4, 6), np.float32)}
    grouped = TorchModel(
        "grouped",
        lambda: torch.nn.Sequential(
            torch.nn.Conv1d(4, 4, 3, groups=2), torch.nn.Conv1d(4, 4, 3)
        ),
        example=example,
    )
    found = AihwkitBackend().supports(grouped, SCHEMES["int8"])
    assert not found.supported
    assert "2 groups" in found.reason
    assert set(found.operators) == {"0"}


@installed
def test_a_session_is_one(load, x):
    """It has what the protocol asks for, and says that it drifts."""
    session = load()
    declared = session.arithmetic()

    assert isinstance(session, Session)
    assert declared.determinism == "drifts"
    assert declared.ages == (25.0, 3600.0, DAY)
    assert "3 layers on aihwkit" in declared.detail
    assert np.isfinite(output(session, x)).all()


@installed
def test_a_seed_is_a_device(load, x):
    """The same seed and age give the same bits, another seed or age others."""
    session = load()
    found = []
    for seed, age in ((1, 25.0), (2, 25.0), (1, DAY), (1, 25.0)):
        session.draw(seed, age=age)
        found.append(output(session, x))

    assert np.array_equal(found[0], found[3])
    assert not np.array_equal(found[0], found[1])
    assert not np.array_equal(found[0], found[2])


@installed
def test_an_age_is_of_the_same_device(load):
    """It is programmed as it was, and its exponents are the same."""
    layer = load()._crossbars()["fc"]
    (tile,) = layer.analog.analog_tiles()
    found = []
    for age in (25.0, DAY):
        layer.program(3, age)
        found.append((tile.programmed_weights, *tile.drift_noise_parameters))
    for early, late in zip(*found, strict=True):
        assert torch.equal(early, late)


@installed
def test_two_runs_of_one_device_differ(load, x):
    """Converters are noisy; without their noise nothing of a run is left."""
    session, silent = load(), load(noise=0.0)
    assert not np.array_equal(output(session, x), output(session, x))
    assert np.array_equal(output(silent, x), output(silent, x))


@installed
def test_another_lot_has_other_devices(load, x):
    """From the same seeds."""
    first, second = load(), load(lot=1)
    for session in (first, second):
        session.draw(7, age=25.0)
    assert not np.array_equal(output(first, x), output(second, x))


@installed
def test_nobody_elses_random_numbers_move(load, x):
    """It draws from torch's global generator, and puts it back."""
    session = load()
    torch.manual_seed(5)
    wanted = torch.randn(3)
    torch.manual_seed(5)
    session.draw(1, age=25.0)
    output(session, x)
    assert torch.equal(wanted, torch.randn(3))


@installed
def test_what_is_unquantized_runs_on_no_crossbar(model, x):
    """It is exact."""
    session = AihwkitBackend("fp32").load(model, None)
    assert session.arithmetic().determinism == "exact"
    assert np.array_equal(output(session, x), output(session, x))


@installed
def test_the_artifact_is_read_from_the_crossbars(load):
    """The INT8 weights before they are programmed, whatever the device made of them."""
    session = load()
    found = session.artifact()
    for name, layer in session._crossbars().items():
        stored = layer.stored.decode().numpy()
        assert np.allclose(found.weights[name].decoded, stored, rtol=1e-6, atol=0)
    (tile,) = layer.analog.analog_tiles()
    tile.reference_combined_weights[0, 0] += 0.5
    changed = session.artifact().weights[name].decoded
    assert not np.allclose(changed, stored, rtol=1e-6)


@installed
def test_silent_crossbars_compute_the_scheme(model, x):
    """Without noise and drift, and with fine converters, it is INT8."""
    silent = {"programming": 0.0, "drift": 0.0, "read": 0.0, "noise": 0.0}
    session = AihwkitBackend(**silent, compensated=False).load(model, SCHEMES["int8"])
    for layer in session._crossbars().values():
        (tile,) = layer.analog.analog_tiles()
        tile.rpu_config.forward.out_res = -1
    names = ["flat", "deep", "fc"]
    found = session.run({"x": x}, capture=names)
    for operator in model.operators():
        oracle = OperatorOracle(operator, SCHEMES["int8"])
        given = found[f"{operator.name}/input"]
        exact = oracle(given, accumulate="fp32", output="fp32").exact
        assert np.allclose(found[operator.name], exact, rtol=0, atol=2e-6)


@installed
def test_its_own_converter_of_8_bits_rounds_a_row_as_the_scheme_does(load):
    """So that what the scheme rounds is what its DAC would give."""
    layer = load(noise=0.0)._crossbars()["fc"]
    (tile,) = layer.analog.analog_tiles()
    tile.rpu_config.forward.out_res = -1
    rows = torch.randn(50, 8, generator=torch.Generator().manual_seed(1))
    ours = layer(rows)
    tile.rpu_config.forward.inp_res = 1 / (2**8 - 2)
    theirs = layer.analog(rows)
    assert torch.allclose(ours, theirs, rtol=1e-5, atol=1e-6)
    tile.rpu_config.forward.inp_res = 1 / (2**7 - 2)
    assert not torch.allclose(ours, layer.analog(rows), rtol=1e-5, atol=1e-6)


@installed
@pytest.mark.parametrize("name", ["flat", "deep", "fc"])
@pytest.mark.parametrize("age", [25.0, 3600.0, DAY])
def test_the_declared_error_is_the_mean_over_devices(load, model, x, name, age):
    """Mean and mean square of each layer over 250 devices, within five errors."""
    session = load()
    operator = next(o for o in model.operators() if o.name == name)
    oracle = OperatorOracle(operator, SCHEMES["int8"])
    layer = session._crossbars()[name]
    given = session.run({"x": x}, capture=[name])[f"{name}/input"]
    exact = oracle(given, accumulate="fp32", output="fp32").exact
    errors = []
    for seed in range(250):
        layer.program(seed, age)
        errors.append(layer(torch.from_numpy(given)).detach().numpy() - exact)
    mean, square = session.expected_error(name, given)
    squares = np.square(errors).mean(axis=tuple(range(1, exact.ndim + 1)))
    spread = squares.std(ddof=1) / np.sqrt(len(squares))
    assert abs(squares.mean() - square.mean()) < APART * spread
    along = np.array([((e - mean) * exact).sum() for e in errors]) / (exact**2).sum()
    assert abs(along.mean()) < APART * along.std(ddof=1) / np.sqrt(len(along))


class Samples:
    """Cells of one target, a million of them, by IBM's model and by our numbers."""

    def __init__(self, target, age, **theirs):
        from aihwkit.inference import PCMLikeNoiseModel

        count = 10**6
        noise = PCMLikeNoiseModel(g_max=25.0, **theirs)
        torch.manual_seed(11)
        given = torch.full((count,), 25.0 * target, dtype=torch.float64)
        programmed = noise.apply_programming_noise_to_conductance(given)
        exponent = noise.generate_drift_coefficients(given)
        read = noise.apply_drift_noise_to_conductance(programmed, exponent, age)
        self.theirs = {
            "programmed": programmed.numpy() / 25,
            "exponent": exponent.numpy(),
            "read": read.numpy() / 25,
        }
        rng = np.random.default_rng(12)
        g = np.full(count, target)
        ours = g + programming_noise(g, Cells()) * rng.standard_normal(count)
        ours = np.maximum(ours, 0)
        mean, deviation = exponents(g)
        nu = np.abs(mean + deviation * rng.standard_normal(count))
        spread = read_noise(ours, age, Cells())
        factor = np.maximum(1 + spread * rng.standard_normal(count), 0)
        self.ours = {
            "programmed": ours,
            "exponent": nu,
            "read": ours * np.exp(-nu * decades(age)) * factor,
        }

    def apart(self):
        """Of each quantity the distance of means and of variances, in their errors."""
        found = {}
        for name, a in self.theirs.items():
            b = self.ours[name]
            error = np.sqrt((a.var() + b.var()) / a.size)
            found[f"mean of {name}"] = abs(a.mean() - b.mean()) / error
            squares = [(v - v.mean()) ** 2 for v in (a, b)]
            error = np.sqrt(sum(s.var() for s in squares) / a.size)
            found[f"variance of {name}"] = abs(a.var() - b.var()) / error
        return found


@installed
@pytest.mark.parametrize("target", [0.0, 0.02, 0.1, 0.5, 1.0])
@pytest.mark.parametrize("age", [25.0, 3600.0, DAY])
def test_cells_have_the_mean_and_spread_of_ours(target, age):
    """Both take them from the same papers; equal within five standard errors."""
    found = Samples(target, age).apart()
    assert max(found.values()) < APART, found


@installed
@pytest.mark.parametrize(
    ("theirs", "what"),
    [
        ({"prog_noise_scale": 1.02}, "variance of programmed"),
        ({"drift_scale": 1.02}, "mean of exponent"),
        ({"read_noise_scale": 1.1}, "variance of read"),
        ({"t_0": 21.0}, "mean of read"),
        ({"prog_coeff": [0.28, 1.9650, -1.1731]}, "variance of programmed"),
    ],
)
def test_cells_of_other_numbers_are_told_apart(theirs, what):
    """By the same comparison: it could have failed."""
    assert Samples(0.5, DAY, **theirs).apart()[what] > APART


def square(x):
    """A model of one layer of 64 by 64."""

    def build():
        torch.manual_seed(8)
        return torch.nn.Sequential(torch.nn.Linear(64, 64))

    return TorchModel("square", build, example={"input": x})


@installed
@pytest.mark.parametrize("age", [25.0, DAY])
def test_a_crossbars_weights_and_compensation_are_as_expected(age):
    """Mean, variance and factor over devices of a layer of 64 by 64."""
    linear = square(np.zeros((1, 64), np.float32))
    session = AihwkitBackend().load(linear, SCHEMES["int8"])
    (layer,) = session._crossbars().values()
    (tile,) = layer.analog.analog_tiles()
    factors, weights = [], []
    for seed in range(200):
        layer.program(seed, age)
        factors.append(float(tile.alpha))
        weights.append(tile.tile.get_weights().numpy().copy())
    target = layer.relative.double().numpy()
    expected = compensation(target, age, Converter())
    mean, variance = moments(target, age, expected.top)

    error = np.std(factors, ddof=1) / np.sqrt(len(factors))
    # The expectation is a mean of drawn devices too: about half as many.
    assert abs(np.mean(factors) - expected.mean) < APART * error * np.sqrt(3)
    found = np.stack(weights) - mean
    error = np.sqrt(variance.mean() / found.size)
    assert abs((found * np.sign(target)).mean()) < APART * error + 1e-4
    assert (found**2).mean() == pytest.approx(variance.mean(), rel=0.01)


SUITE = SuiteRef(name="s", folder=".", model="m", cases="c", batch=2, seed=1)


@installed
@pytest.mark.parametrize(
    ("options", "beyond"),
    [
        ({}, False),
        ({"compensated": False}, True),
        ({"programming": 1.5}, True),
        ({"read": 2.0}, True),
        ({"drift": 1.5}, True),
        ({"bound": 0.2}, True),
        ({"noise": 0.06}, True),
    ],
)
def test_a_fault_is_beyond_what_is_declared(options, beyond):
    """Squared error over the declared, mean over devices: near 1 of a clean one."""
    rng = np.random.default_rng(3)
    arrays = rng.standard_normal((6, 1, 64)).astype(np.float32)
    linear = square(arrays[0])
    cases = tuple(Case(id=f"c{i}", inputs={"input": a}) for i, a in enumerate(arrays))
    suite = LoadedSuite(linear, cases, linear.operators())
    registry = Registry()
    registry.add_backend(AihwkitBackend(**options))
    job = DrawsJob(
        suite=SUITE,
        backend="aihwkit",
        scheme=SCHEMES["int8"],
        seeds=tuple(range(12)),
        ages=(DAY,),
    )
    loaded = type("Loaded", (), {"get": lambda _self, _ref: suite})()
    found = run_draws(job, registry, loaded, lambda *_: None)
    (name,) = found.draws[0].residual
    ratios = [d.residual[name].sum() / d.declared[name].sum() for d in found.draws]
    assert (np.mean(ratios) > 1.1) == beyond, np.mean(ratios)


@installed
def test_closed_sessions_and_negative_ages_are_refused(load):
    """With what was given."""
    session = load()
    with pytest.raises(BackendError, match="age=-1"):
        session.draw(1, age=-1.0)
    session.close()
    with pytest.raises(BackendError, match="closed=True"):
        session.draw(1, age=25.0)
