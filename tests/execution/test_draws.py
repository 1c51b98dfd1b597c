"""In a worker: one session as many devices."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest

from harness.backends.analog_backend import AnalogBackend
from harness.backends.protocol import Arithmetic
from harness.backends.registry import Registry
from harness.backends.torch_backend import TorchBackend
from harness.errors import BackendError
from harness.execution.draws import drawable, run_draws
from harness.execution.jobs import DrawsJob, SuiteRef
from harness.execution.loaded import LoadedSuite
from harness.models.torch_model import TorchModel
from harness.models.types import Case
from harness.schemes.catalogue import SCHEMES

torch = pytest.importorskip("torch")
SUITE = SuiteRef(name="s", folder=".", model="m", cases="c", batch=2, seed=1)


def make():
    """Two layers, the first a convolution."""
    torch.manual_seed(2)
    return torch.nn.Sequential(
        torch.nn.Conv1d(4, 6, 3),
        torch.nn.ReLU(),
        torch.nn.Flatten(),
        torch.nn.Linear(36, 5),
    )


@pytest.fixture(scope="module")
def loaded():
    """Six cases."""
    rng = np.random.default_rng(3)
    arrays = rng.standard_normal((6, 1, 4, 8)).astype(np.float32)
    model = TorchModel("small", make, example={"input": arrays[0]})
    cases = tuple(Case(id=f"c{i}", inputs={"input": a}) for i, a in enumerate(arrays))
    suite = LoadedSuite(model, cases, model.operators())
    return SimpleNamespace(get=lambda _ref: suite)


def draws(loaded, backend, **changes):
    registry = Registry()
    registry.add_backend(backend)
    job = DrawsJob(
        suite=SUITE,
        backend=backend.name,
        scheme=SCHEMES["int8"],
        **{"seeds": (5, 6), "ages": (0.0, 3600.0), **changes},
    )
    steps = []
    found = run_draws(job, registry, loaded, lambda *step: steps.append(step))
    return found, steps


def test_every_seed_is_run_at_every_age(loaded):
    """Outputs of every case; every operator's channels; progress by device."""
    found, steps = draws(loaded, AnalogBackend())

    assert [(d.seed, d.age) for d in found.draws] == [
        (5, 0.0),
        (5, 3600.0),
        (6, 0.0),
        (6, 3600.0),
    ]
    assert steps == [(1, 2), (2, 2)]
    assert found.declares
    for draw in found.draws:
        assert len(draw.outputs) == 6
        assert draw.residual["0"].shape == draw.declared["0"].shape == (6,)
        assert draw.residual["3"].shape == (5,)
        assert (draw.declared["3"] > 0).all()
    assert found.draws[0].residual["3"].sum() != found.draws[2].residual["3"].sum()


def test_the_same_seeds_give_the_same_draws(loaded):
    """To the last bit: a run can be repeated."""
    (first, _), (second, _) = (draws(loaded, AnalogBackend()) for _ in range(2))

    for one, other in zip(first.draws, second.draws, strict=True):
        assert np.array_equal(one.residual["0"], other.residual["0"])
        assert one.gain == other.gain


def test_a_wrong_scale_is_a_gain_and_a_shift_an_offset(loaded):
    """Of the operator that has it, by as much; nothing of the other."""
    quiet = {"programming": 0.0, "read": 0.0}
    one = {"seeds": (5,), "ages": (0.0,)}
    plain = draws(loaded, AnalogBackend(**quiet), **one)[0].draws[0]
    scaled = draws(loaded, AnalogBackend(scale={"3": 1.5}, **quiet), **one)[0].draws[0]
    moved = draws(loaded, AnalogBackend(shift={"3": 0.5}, **quiet), **one)[0].draws[0]

    assert scaled.gain["3"] - plain.gain["3"] == pytest.approx(0.5, abs=0.1)
    assert moved.offset["3"] - plain.offset["3"] > 0.1
    assert scaled.gain["0"] == plain.gain["0"]


class Quiet:
    """A session that is noisy, and declares no error of its operators."""

    def __init__(self, session):
        self._session = session

    def __getattr__(self, name):
        if name == "expected_error":
            raise AttributeError(name)
        return getattr(self._session, name)


class QuietBackend(AnalogBackend):
    """Of such sessions."""

    def load(self, model, scheme):
        """An analog one that says nothing."""
        return Quiet(super().load(model, scheme))


def test_what_is_not_declared_is_measured_in_units_of_the_signal(loaded):
    """So that the baseline can be compared."""
    found, _ = draws(loaded, QuietBackend())

    assert not found.declares
    assert (found.draws[0].declared["3"] > 0).all()


def test_only_a_noisy_session_with_draw_is_drawable(loaded):
    """An exact one is not, and running it as devices is refused."""
    model = loaded.get(SUITE).model
    assert drawable(AnalogBackend().load(model, SCHEMES["int8"]))
    assert not drawable(AnalogBackend("fp32").load(model, None))
    assert not drawable(TorchBackend().load(model, SCHEMES["int8"]))
    jittery = SimpleNamespace(arithmetic=lambda: Arithmetic(determinism="run-to-run"))
    assert not drawable(jittery)
    with pytest.raises(BackendError, match="torch cannot be drawn"):
        draws(loaded, TorchBackend())
