"""Times are ratios to the same backend's unquantized run, taken in turns."""

from __future__ import annotations

import time
from types import SimpleNamespace

import numpy as np
import pytest

from harness.backends.protocol import Artifact, Outputs, QuantizedTensor
from harness.errors import UnsupportedError
from harness.execution.latency import time_target
from harness.execution.loaded import LoadedSuite
from harness.judge import judge_run
from harness.judge.evidence import Budget, Evidence
from harness.models.types import Case, Operator

MODEL = SimpleNamespace(step_inputs=(), state={}, batch_axes={})
CASES = tuple(
    Case(id=name, inputs={"x": np.ones((1, 3), np.float32)}) for name in "abc"
)
OPERATOR = Operator("layer", "linear", np.ones((8, 16), np.float32))


class Sleeping:
    """A session that takes its time, and tells its phases if it is asked to."""

    def __init__(self, seconds, phases=None, held=0):
        self.seconds = seconds
        self.phases = phases or {}
        self.held = held
        self.closed = 0

    def run(self, inputs, *, capture=()):  # noqa: ARG002
        """Wait, and give the input back."""
        time.sleep(self.seconds)
        return Outputs({"y": inputs["x"]}, self.phases)

    def artifact(self):
        """A weight in so many bytes."""
        tensor = QuantizedTensor("int8", "int8", np.ones(1), nbytes=self.held)
        return Artifact(weights={"layer": tensor} if self.held else {})

    def close(self):
        """Count it."""
        self.closed += 1


class Backend:
    """Gives one session for the reference, another for the target."""

    def __init__(self, reference, target, load=(0.0, 0.0)):
        self.sessions = (reference, target)
        self.seconds = load

    def load(self, _model, scheme):
        """Wait as long as loading takes."""
        side = int(scheme is not None)
        time.sleep(self.seconds[side])
        if self.sessions[side] is None:
            raise UnsupportedError("no unquantized run")
        return self.sessions[side]


def timed(reference, target, *, seconds=1.0, load=(0.0, 0.0)):
    """Phase -> what was measured."""
    suite = LoadedSuite(MODEL, CASES, (OPERATOR,))
    backend = Backend(reference, target, load)
    found = time_target(backend, "scheme", suite, target, batch=4, seconds=seconds)
    return {entry.phase: entry for entry in found}


def judged(latency, **limits):
    """The cost check's verdicts, and the measurements."""
    budgets = {
        name: Budget(metric=name, limit=limit, source="suite.toml:3")
        for name, limit in limits.items()
    }
    evidence = Evidence(
        suite="s",
        backend="b",
        scheme="x",
        seed=1,
        budgets=budgets,
        latency=tuple(latency.values()),
    )
    (found,) = judge_run([evidence])
    return [str(c.verdict) for c in found.checks if c.check == "cost"], found


def test_a_slow_target_is_found():
    """Three times the time is about a ratio of three, and beyond a budget of two."""
    found = timed(Sleeping(0.001), Sleeping(0.003), seconds=12, load=(0.001, 0.06))
    verdicts, judgement = judged(found, **{"cost.run": 2.0, "cost.load": 2.0})

    assert ["behaviour", "behaviour"] == verdicts
    assert 2 < judgement.measurements["cost.run"].value < 4
    assert 20 <= judgement.measurements["cost.run"].cases


def test_an_equal_target_passes():
    """The same work on both sides is no regression, whatever the machine does."""
    verdicts, _ = judged(timed(Sleeping(0.001), Sleeping(0.001)), **{"cost.run": 1.3})
    assert ["pass"] == verdicts


def test_phases_that_both_tell_are_apart():
    """What the sessions say of the model's time, transfers and serialization."""
    found = timed(
        Sleeping(0.0005, {"run": 1.0, "transfer": 0.5, "parse": 1.0}),
        Sleeping(0.0005, {"run": 2.0, "transfer": 0.25}),
    )

    assert {"run", "transfer", "load"} == set(found)
    assert 2.0 == found["run"].target[0] / found["run"].reference[0]
    assert 0.5 == found["transfer"].target[0] / found["transfer"].reference[0]


def test_bytes_of_weights():
    """Counted, not sampled: against the same weights in FP16, and judged exactly."""
    found = timed(Sleeping(0.0005), Sleeping(0.0005, held=128))
    one = {"weights": found["weights"]}

    assert 0.5 == judged(one)[1].measurements["cost.weights"].value
    assert ["pass"] == judged(one, **{"cost.weights": 0.5})[0]
    assert ["behaviour"] == judged(one, **{"cost.weights": 0.49})[0]


def test_too_little_time_times_nothing():
    """Twenty rounds that do not fit are left out; a budget on them then fails."""
    found = timed(Sleeping(0.02), Sleeping(0.02), seconds=0.2, load=(0.02, 0.02))
    assert {} == found
    _, judgement = judged(found, **{"cost.run": 1.0})
    assert "vacuous" == str(judgement.verdict)


def test_a_backend_without_an_unquantized_run():
    """Nothing to compare with is no measurement."""
    assert {} == timed(None, Sleeping(0.001))


def test_the_reference_is_closed():
    """The target's session stays open for its owner."""
    reference, target = Sleeping(0.0005), Sleeping(0.0005)
    backend = Backend(reference, Sleeping(0.0005))
    suite = LoadedSuite(MODEL, CASES, (OPERATOR,))
    time_target(backend, "scheme", suite, target, batch=4, seconds=0.2)

    assert (True, 0) == (reference.closed > 0, target.closed)


def test_fewer_cases_where_all_take_too_long():
    """Rounds of a few cases, rather than no rounds."""

    class Rowwise(Sleeping):
        """Takes its time for every case; counts them."""

        def run(self, inputs, *, capture=()):  # noqa: ARG002
            """Wait for each row."""
            self.rows = len(inputs["x"])
            time.sleep(self.seconds * self.rows)
            return Outputs({"y": inputs["x"]})

    cases = tuple(Case(str(i), CASES[0].inputs) for i in range(40))
    target = Rowwise(0.002)
    suite = LoadedSuite(MODEL, cases, (OPERATOR,))
    backend = Backend(Rowwise(0.002), target)
    found = time_target(backend, "scheme", suite, target, batch=64, seconds=0.4)

    assert 20 <= len({entry.phase: entry for entry in found}["run"].target)
    assert 2 >= target.rows


def test_fewer_steps_where_one_case_takes_too_long():
    """A recurrent model is timed over the first steps of a case."""
    model = SimpleNamespace(step_inputs=("x",), state={}, batch_axes={})
    case = Case(id="a", inputs={"x": np.ones((64, 1, 3), np.float32)})
    target = Sleeping(0.001)
    suite = LoadedSuite(model, (case,), (OPERATOR,))
    backend = Backend(Sleeping(0.001), target)
    found = time_target(backend, "scheme", suite, target, batch=4, seconds=1.0)

    assert {"run", "load"} == {entry.phase for entry in found}


@pytest.mark.quant_slow
def test_a_gate_times_its_targets(tmp_path):
    """`gate` measures the ratio on a shipped suite, `run` does not."""
    from harness.execution.api import run

    chosen = {"backends": ["onnxruntime"], "schemes": ["mxfp4"]}
    first = run(["suites/vad"], out=tmp_path / "a", **chosen)
    second = run(
        ["suites/vad"], out=tmp_path / "b", baseline=str(tmp_path / "a"), **chosen
    )

    assert "cost.run" not in first.targets[0].measurements
    assert second.targets[0].measurements["cost.run"].value > 0
    assert second.targets[0].measurements["cost.weights"].value < 0.5
