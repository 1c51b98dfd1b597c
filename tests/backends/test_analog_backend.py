"""The simulated analog computer: what its cells do, and that it declares it."""

from __future__ import annotations

import numpy as np
import pytest

from harness.backends.analog_backend import AnalogBackend
from harness.backends.analog_device import (
    Cells,
    decades,
    expected,
    exponents,
    programming_noise,
    read_noise,
)
from harness.backends.protocol import Session
from harness.errors import BackendError
from harness.schemes.catalogue import SCHEMES
from harness.schemes.oracle import OperatorOracle
from tests.backends.analog_network import network, output, samples

torch = pytest.importorskip("torch")

DAY = 86400.0
SILENT = {"programming": 0.0, "drift": 0.0, "read": 0.0}


@pytest.fixture(scope="module")
def x():
    """Two samples."""
    return samples()


@pytest.fixture(scope="module")
def model():
    """A Conv2d, a grouped Conv1d with padding, and a Linear layer."""
    return network(padding=1, groups=2)


@pytest.fixture
def load(model):
    """A session of int8."""

    def open_session(scheme="int8", **options):
        return AnalogBackend(**options).load(model, SCHEMES[scheme])

    return open_session


def test_a_session_is_one(load, x):
    """It has what the protocol asks for, and says that it drifts."""
    session = load()

    assert isinstance(session, Session)
    assert session.arithmetic().determinism == "drifts"
    assert len(session.arithmetic().ages) > 1
    assert np.isfinite(output(session, x)).all()


def test_a_seed_is_a_device(load, x):
    """The same seed and age give the same bits, another seed or age others."""
    session = load()
    found = []
    for seed, age in ((1, 0.0), (2, 0.0), (1, DAY), (1, 0.0)):
        session.draw(seed, age=age)
        found.append(output(session, x))

    assert np.array_equal(found[0], found[3])
    assert not np.array_equal(found[0], found[1])
    assert not np.array_equal(found[0], found[2])


def test_two_runs_of_one_device_differ(load, x):
    """Reads and converters are noisy."""
    session = load()
    assert not np.array_equal(output(session, x), output(session, x))


def test_another_lot_has_other_devices(load, x):
    """From the same seeds."""
    first, second = load(), load(lot=1)
    for session in (first, second):
        session.draw(7, age=0.0)
    assert not np.array_equal(output(first, x), output(second, x))


def test_what_is_unquantized_runs_on_no_crossbar(model, x):
    """It is exact, and has nothing to draw that could change it."""
    session = AnalogBackend("fp32").load(model, None)
    assert session.arithmetic().determinism == "exact"
    assert np.array_equal(output(session, x), output(session, x))


@pytest.mark.parametrize("name", ["flat", "deep", "fc"])
@pytest.mark.parametrize("age", [0.0, 30 * DAY])
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
    assert abs(squares.mean() - square.mean()) < 5 * spread
    along = np.array([((e - mean) * exact).sum() for e in errors]) / (exact**2).sum()
    assert abs(along.mean()) < 5 * along.std(ddof=1) / np.sqrt(len(along))


@pytest.mark.parametrize(
    ("options", "name"),
    [
        ({"scale": {"fc": 1.5}}, "fc"),
        ({"shift": {"fc": 0.5}}, "fc"),
        ({"dead": {"fc": (3,)}}, "fc"),
        ({"programming": 3.0}, "deep"),
    ],
)
def test_a_fault_changes_its_layer_and_no_declaration(load, x, options, name):
    """What is declared is of a faultless device."""
    clean, broken = load(), load(**options)
    for session in (clean, broken):
        session.draw(3, age=0.0)
    found = [s.run({"x": x}, capture=[name]) for s in (clean, broken)]
    if name == "fc":
        # Nothing before the fault differs.
        assert np.array_equal(*(f[f"{name}/input"] for f in found))
    assert not np.array_equal(*(f[name] for f in found))
    given = found[0][f"{name}/input"]
    declared = [s.expected_error(name, given) for s in (clean, broken)]
    assert np.array_equal(declared[0], declared[1])


def test_a_dead_column_gives_its_bias(load, x):
    """Its cells conduct nothing, whatever the input; converters are still noisy."""
    session = load(dead={"fc": (3,)}, read=0.0)
    layer = session._crossbars()["fc"]
    assert not layer.read()[3].any()
    assert layer.read()[2].any()


def test_compensation_restores_the_mean(load):
    """A month later the sum of all conductances is back, without it a third is gone."""
    shares = []
    for compensated in (True, False):
        layer = load(compensated=compensated)._crossbars()["fc"]
        layer.program(1, 30 * DAY)
        shares.append(
            float(layer.drifted.sum() * layer.factor / layer.programmed.sum())
        )
    assert pytest.approx(1.0) == shares[0]
    assert shares[1] < 0.7


def test_silent_cells_leave_the_converters_alone(load, x):
    """Without cell noise the weight that is read is the INT8 weight."""
    layer = load(**SILENT)._crossbars()["fc"]
    assert torch.allclose(layer.read(), layer.stored.decode(), rtol=1e-6)


def test_closed_sessions_and_negative_ages_are_refused(load):
    """With what was given."""
    session = load()
    with pytest.raises(BackendError, match="age=-1"):
        session.draw(1, age=-1.0)
    with pytest.raises(BackendError, match="age=nan"):
        session.draw(1, age=float("nan"))
    session.close()
    with pytest.raises(BackendError, match="closed=True"):
        session.draw(1, age=0.0)


@pytest.mark.parametrize("scheme", ["fp8_e4m3", "mxfp8", "int4"])
def test_only_int8_goes_through_converters(model, scheme):
    """Every other format is refused, with every operator named."""
    found = AnalogBackend().supports(model, SCHEMES[scheme])
    assert not found.supported
    assert set(found.operators) == {o.name for o in model.operators()}
    assert AnalogBackend().supports(model, SCHEMES["int8"]).supported


def test_cells_have_the_published_numbers():
    """Programming noise at both ends and in the middle, in uS of 25 (Joshi 2020)."""
    g = np.array([0.0, 0.5, 1.0])
    assert np.allclose(
        programming_noise(g, Cells()) * 25, [0.26348, 0.952705, 1.05538], rtol=1e-5
    )
    mean, deviation = exponents(np.array([1.0, 0.01, 0.0]))
    assert np.allclose(mean, [0.049, 0.0244 + 0.0155 * np.log(100), 0.1])
    assert np.allclose(deviation, [0.008, 0.045, 0.045])


def test_noise_of_reads_grows_with_age():
    """1/f noise; strength 0 is none."""
    g = np.array([0.1, 1.0])
    early, late = (read_noise(g, age, Cells()) for age in (0.0, DAY))
    assert (late > early).all()
    assert early[0] > early[1]
    assert not read_noise(g, DAY, Cells(read=0.0)).any()


@pytest.mark.parametrize("age", [0.0, DAY])
def test_expectations_are_those_of_many_cells(age):
    """A million simulated cells have the tabled mean and variance."""
    rng = np.random.default_rng(1)
    for g in (0.0, 0.03, 0.4, 1.0):
        noise = rng.standard_normal((3, 10**6))
        sigma = programming_noise(np.array(g), Cells())
        programmed = np.maximum(g + sigma * noise[0], 0)
        mean, deviation = exponents(np.array(g))
        drifted = programmed * np.exp(-abs(mean + deviation * noise[1]) * decades(age))
        spread = drifted * read_noise(programmed, age, Cells())
        read = np.maximum(drifted + spread * noise[2], 0)
        first, second = expected(np.array([g]), age, Cells())
        # The table is interpolated; what it is off by matters in units of the largest.
        assert abs(read.mean() - first[0]) < 5e-4
        assert abs(read.std() - np.sqrt(second[0])) < 5e-4
