"""What lies between a target's operators is judged, wherever a fault sits."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from harness.backends.protocol import Arithmetic
from harness.backends.torch_backend import TorchBackend
from harness.execution.cases_run import run_cases
from harness.execution.paths import Paths
from harness.judge.checks.explained_paths import explained_paths
from harness.judge.evidence import Evidence
from harness.judge.levels import Levels
from harness.models.torch_model import TorchModel
from harness.models.types import Case
from harness.schemes.catalogue import SCHEMES

torch = pytest.importorskip("torch")

SCHEME = SCHEMES["fp8_e4m3"]
RNG = np.random.default_rng(8)
CASES = [
    Case(id=str(i), inputs={"x": RNG.standard_normal((1, 6, 64)).astype(np.float32)})
    for i in range(4)
]


class Attention(torch.nn.Module):
    """One layer of a transformer, in few words."""

    def __init__(self):
        super().__init__()
        self.norm = torch.nn.LayerNorm(64)
        self.q, self.k, self.v, self.out = (torch.nn.Linear(64, 64) for _ in range(4))
        self.up, self.down = torch.nn.Linear(64, 128), torch.nn.Linear(128, 64)
        self.act = torch.nn.GELU()
        self.scale = 64**-0.5
        self.kept = 1.0

    def forward(self, x):
        h = self.norm(x)
        weights = torch.softmax(self.q(h) @ self.k(h).mT * self.scale, dim=-1)
        x = self.kept * x + self.out(weights @ self.v(h))
        return x + self.down(self.act(self.up(x)))


def attention():
    """With weights that are always the same."""
    torch.manual_seed(2)
    return Attention()


MODEL = TorchModel("attention", attention, example=dict(CASES[0].inputs))
ALL = [operator.name for operator in MODEL.operators()]

#: Name -> what is done to the module, where the fault is seen first.
FAULTS = {
    "a norm's epsilon": (lambda m: setattr(m.norm, "eps", 1e-3), "inputs -> q"),
    "another GELU": (lambda m: setattr(m.act, "approximate", "tanh"), "up -> down"),
    "attention's scale": (lambda m: setattr(m, "scale", 0.1), "v -> out"),
    "a residual of 0.99": (lambda m: setattr(m, "kept", 0.99), "out -> up"),
}


def watch(fault=None, hidden=(), arithmetic=None, scheme=SCHEME):
    """The paths of a run on torch whose module `fault` has changed."""
    session = TorchBackend().load(MODEL, scheme)
    if fault is not None:
        fault(session.module)
    names = [name for name in ALL if name not in hidden]
    declared = arithmetic or session.arithmetic()
    paths = Paths(MODEL, scheme, MODEL.operators(), declared, seed=1)
    run_cases(session, MODEL, CASES, batch=4, capture=names, on_call=paths.add)
    return paths


def judged(paths):
    """The verdicts on them."""
    evidence = Evidence(
        suite="s", backend="b", scheme="c", seed=0, paths=paths.result()
    )
    return explained_paths(evidence, Levels())


def test_a_faithful_backend_stays_far_below_every_limit():
    """All paths are looked at, and none comes near."""
    found = judged(watch()).paths

    assert [p.name for p in found[:5]] == [
        *("inputs -> q", "inputs -> k", "inputs -> v", "v -> out", "out -> up")
    ]
    assert found[-1].name.startswith("down -> output")
    assert len(found) == 7
    assert all(0 < p.unexplained < p.limit / 3 for p in found)


@pytest.mark.parametrize("name", FAULTS)
def test_a_fault_that_no_operator_has_is_a_defect_and_located(name):
    """Every operator is right; what leads to the next is not."""
    fault, place = FAULTS[name]
    found = judged(watch(fault))
    guilty = [path.name for path in found.paths if path.guilty]

    assert guilty[0] == place
    assert found.results[0].verdict == "defect"
    assert place in found.results[0].reason


def test_a_narrower_type_that_is_declared_explains_more():
    """What is a defect in float32 is noise in bfloat16."""
    fault = FAULTS["another GELU"][0]
    narrow = Arithmetic(output="bf16")

    assert not any(p.guilty for p in judged(watch(fault, arithmetic=narrow)).paths)


def test_an_operator_that_is_not_shown_leaves_nothing_to_judge():
    """What it does would look like a fault of a path; the reason is kept."""
    paths = watch(hidden=("k", "v"))

    assert paths.result() == ()
    assert paths.skipped == "2 of 6 are not shown"


def test_a_value_that_is_not_finite_is_infinitely_wrong():
    """NaN never passes; where NaN was given, the path is not to blame."""
    session = TorchBackend().load(MODEL, SCHEME)
    paths = Paths(MODEL, SCHEME, MODEL.operators(), session.arithmetic(), seed=1)
    outputs = dict(session.run(CASES[0].inputs, capture=ALL))
    outputs["down/input"] = np.full_like(outputs["down/input"], np.nan)
    outputs["v"] = np.full_like(outputs["v"], np.nan)
    paths.add(CASES[0].inputs, outputs)
    found = {entry.after: entry for entry in paths.result()}

    assert found["down"].residual_sq == np.inf
    assert "out" not in found


def test_another_shape_is_infinitely_wrong():
    """It cannot be compared, so it cannot pass."""
    session = TorchBackend().load(MODEL, SCHEME)
    paths = Paths(MODEL, SCHEME, MODEL.operators(), session.arithmetic(), seed=1)
    outputs = dict(session.run(CASES[0].inputs, capture=ALL))
    outputs["out/input"] = outputs["out/input"][:, :3]
    paths.add(CASES[0].inputs, outputs)
    found = {entry.after: entry for entry in paths.result()}

    assert found["out"].residual_sq == np.inf


def test_few_calls_are_looked_at():
    """Six are enough, and bounded; of a language model small ones only."""
    session = TorchBackend().load(MODEL, SCHEME)
    paths = Paths(MODEL, SCHEME, MODEL.operators(), session.arithmetic(), seed=1)
    for case in (CASES * 2)[:6]:
        assert paths.wants([case])
        paths.add(case.inputs, session.run(case.inputs, capture=ALL))
    long = dataclasses.replace(
        CASES[0],
        inputs={"input_ids": np.zeros((1, 10**6)), "positions": np.zeros((1, 8))},
    )

    many = [dataclasses.replace(MODEL.operators()[0], name=str(i)) for i in range(600)]
    crowd = Paths(MODEL, SCHEME, many, Arithmetic(), 1)

    assert not paths.wants(CASES[:1])
    assert not crowd.wants(CASES[:1])
    assert "600 operators are too many" in crowd.skipped
    assert not Paths(MODEL, SCHEME, MODEL.operators(), Arithmetic(), 1).wants([long])


def test_the_longest_prompt_that_can_be_held_is_looked_at_too():
    """One: what is wrong from some position on shows in none of the short ones."""
    paths = Paths(MODEL, SCHEME, MODEL.operators(), Arithmetic(), 1)
    lengths = {"short": 400, "long": 401, "longer": 700, "too long": 10**8}
    cases = [
        dataclasses.replace(
            CASES[0],
            id=name,
            inputs={
                "input_ids": np.broadcast_to(np.int64(0), (1, length)),
                "positions": np.zeros((1, 8)),
            },
        )
        for name, length in lengths.items()
    ]

    assert [case.id for case in paths.long(cases)] == ["longer"]
    assert paths.long(cases[:1]) == []
    assert paths.long(CASES) == []


def test_noise_without_bounds_is_said_and_judges_nothing(monkeypatch):
    """Infinite noise would explain anything: it is no pass."""
    session = TorchBackend().load(MODEL, SCHEME)
    paths = Paths(MODEL, SCHEME, MODEL.operators(), session.arithmetic(), seed=1)
    monkeypatch.setattr(paths, "_step", np.inf)
    paths.add(CASES[0].inputs, session.run(CASES[0].inputs, capture=ALL))

    assert paths.result() == ()
    assert "lead to NaN or Inf at q" in paths.skipped
