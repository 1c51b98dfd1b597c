"""Which targets of a run are held against which, and which cannot be."""

from __future__ import annotations

import dataclasses
from types import SimpleNamespace

import numpy as np
import pytest

from harness.errors import ConfigError
from harness.execution.api import record, run
from harness.execution.ordering import (
    Ordering,
    bits_of,
    not_comparable,
    with_orderings,
)
from harness.execution.suite import load_suite
from harness.judge.evidence import Evidence, Failure, MetricEvidence, Paired
from harness.schemes.catalogue import scheme_by_name
from tests.models.tiny_language import HEAD, write_tiny_suite

#: What follows HEAD.
SUITE = """\
batch = 8

[budget]
drift = 10.0
"""
TARGETS = """
[[target]]
backend = "torch"
scheme = "fp8_weight_only"

[[target]]
backend = "torch"
scheme = "mxfp4_weight_only"
"""


def pair_of(better="torch/fp8_weight_only", worse="torch/mxfp4_weight_only", more=""):
    return f'\n[[ordering]]\nbetter = "{better}"\nworse = "{worse}"\n{more}\n'


@pytest.fixture
def folder(tmp_path):
    """A suite's files, but for `suite.toml`."""
    (tmp_path / "tiny.gguf").write_bytes(b"")
    (tmp_path / "cases.jsonl").write_text("")
    return tmp_path


def load(folder, text):
    (folder / "suite.toml").write_text(HEAD + SUITE + TARGETS + text)
    return load_suite(folder)


def test_an_ordering_is_read_with_its_line(folder):
    """The metric is the drift where none is named."""
    found = load(folder, pair_of() + pair_of(more='metric = "logits.kl"'))

    first, second = found.orderings
    assert (first.metric, second.metric) == ("drift", "logits.kl")
    assert first.better == "torch/fp8_weight_only"
    assert first.source == "suite.toml:19"
    assert load(folder, "").orderings == ()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (pair_of(worse="torch/mxfp4"), "no target 'torch/mxfp4'; did you mean"),
        (pair_of(worse="torch/fp8_weight_only"), "is compared with itself"),
        (pair_of() + pair_of(), "stands twice"),
        (pair_of(more='metrik = "drift"'), "metrik='drift', but its keys are"),
        (pair_of(more="metric = 3"), "metric=3, but its keys are the texts"),
        ('[[ordering]]\nbetter = "torch/fp8_weight_only"', "'worse' is missing"),
        ('[ordering]\nbetter = "torch/fp8_weight_only"', r"write \[\[ordering\]\]"),
    ],
)
def test_a_wrong_ordering_is_an_error_with_its_place(folder, text, message):
    """A target that is not there, itself, twice, a wrong key, a wrong type."""
    with pytest.raises(ConfigError, match=message) as caught:
        load(folder, text)

    assert "suite.toml" in str(caught.value)


@pytest.mark.parametrize(
    ("better", "worse", "reason"),
    [
        ("fp8_weight_only", "mxfp4_weight_only", ""),
        ("int8", "nvfp4", ""),
        ("nvfp4", "mxfp4", ""),
        ("mxfp4_weight_only", "mxfp4", ""),
        ("mxfp4", "nvfp4", "mxfp4 has 4.25 bits in weights, nvfp4 4.5"),
        ("fp8_e4m3", "int8", "fp8_e4m3 and int8 have as many bits"),
        ("fp8_e4m3", "mxfp4_weight_only", "8 bits in activations, mxfp4_weight_only"),
    ],
)
def test_only_more_bits_everywhere_are_more_bits(better, worse, reason):
    """Fewer bits in one kind of tensor, or as many in all, say nothing."""
    found = not_comparable(scheme_by_name(better), scheme_by_name(worse))

    assert reason in found
    assert bool(found) is bool(reason)


def test_quantizing_what_the_other_leaves_alone_is_not_comparable():
    """Leaving more alone is."""
    high, low = scheme_by_name("int8"), scheme_by_name("nvfp4")
    keeps = {"keep": ("lm_head",)}

    assert "quantizes lm_head" in not_comparable(
        high, dataclasses.replace(low, **keeps)
    )
    assert not_comparable(dataclasses.replace(high, **keeps), low) == ""
    assert bits_of(None) > bits_of(high.weights) > bits_of(low.weights)


def evidence(target, values, cases="abc", **more):
    """A target's evidence with one metric, and squared errors of the same size."""
    values = np.array(values)
    return Evidence(
        suite="s",
        backend=target.backend,
        scheme=target.scheme.name,
        seed=1,
        noise_floor=0.25,
        drift=Paired(
            cases=tuple(cases), error_sq=values, reference_sq=np.ones(len(values))
        ),
        metrics=(
            MetricEvidence(
                name="y.top1", values=values, cases=tuple(cases), better="higher"
            ),
        ),
        tags={"a": ("prompt:1",), "b": ("prompt:1",)},
        **more,
    )


def pairs(*orderings):
    """A suite of two targets, INT8 and NVFP4."""
    suite = SimpleNamespace(name="s", orderings=orderings)
    return [
        (
            suite,
            SimpleNamespace(
                name=f"torch/{name}", backend="torch", scheme=scheme_by_name(name)
            ),
        )
        for name in ("int8", "nvfp4")
    ]


def test_values_of_both_are_paired_by_case():
    """In the order of the better one; only common cases; the better one is judged."""
    both = pairs(
        Ordering(better="torch/int8", worse="torch/nvfp4", source="suite.toml:3"),
        Ordering(better="torch/int8", worse="torch/nvfp4", metric="y.top1"),
        Ordering(better="torch/int8", worse="torch/nvfp4", metric="y.kl"),
    )
    first = evidence(both[0][1], [1.0, 2.0, 3.0])
    second = evidence(both[1][1], [7.0, 5.0], cases="ca")

    judged, other = with_orderings(both, (first, second))
    drift, top1, unknown = judged.orderings

    assert other.orderings == ()
    assert drift.cases == top1.cases == ("a", "c")
    assert (drift.own.tolist(), drift.others.tolist()) == ([1.0, 3.0], [5.0, 7.0])
    assert drift.clusters == ("prompt:1", "case:c")
    assert (drift.limit, drift.source) == (0.25, "suite.toml:3")
    assert (top1.better, top1.limit, top1.reference_sq) == ("higher", 0.0, None)
    assert unknown.cases == ()
    assert unknown.known == ("drift", "y.top1")


def test_what_did_not_run_or_end_is_not_judged():
    """With the reason; and nothing is held against a target that was not declared."""
    both = pairs(Ordering(better="torch/int8", worse="torch/nvfp4"))
    first = evidence(both[0][1], [1.0, 2.0, 3.0])
    failed = evidence(
        both[1][1], [1.0, 1.0, 1.0], failure=Failure(kind="error", message="x")
    )

    (alone,) = with_orderings(both[:1], (first,))
    assert alone.orderings[0].unjudged == "torch/nvfp4 was not run"
    beside, _ = with_orderings(both, (first, failed))
    assert beside.orderings[0].unjudged == "torch/nvfp4: error"
    turned = pairs(Ordering(better="torch/nvfp4", worse="torch/int8"))
    _, other = with_orderings(turned, (first, evidence(turned[1][1], [1.0] * 3)))
    assert "bits in weights" in other.orderings[0].unjudged


PLUGIN = """\
from harness.backends.torch_backend import TorchBackend

class Planted(TorchBackend):
    def __init__(self):
        super().__init__()
        self.name = "broken"
    def load(self, model, scheme):
        session = super().load(model, scheme)
        session._module.model.layers[0].mlp.register_forward_hook(
            lambda _, inputs, output: output * -1.0
        )
        return session

def register(registry):
    registry.add_backend(Planted())
"""


@pytest.mark.quant_slow
def test_a_defect_in_the_better_one_is_seen_beside_the_worse(tmp_path, monkeypatch):
    """The sound one is better; the broken one, of as many bits, is a regression."""
    import json

    monkeypatch.setenv("QUANTHARNESS_CACHE", str(tmp_path / "cache"))
    folder = tmp_path / "suite"
    texts = [
        f"{word} {n} the boat lay near" for n in range(8) for word in ("sea", "ox")
    ]
    broken = '\n[[target]]\nbackend = "broken"\nscheme = "fp8_weight_only"\n'
    kl = 'metric = "logits.kl"'
    text = pair_of(more=kl) + broken + pair_of(better="broken/fp8_weight_only", more=kl)
    records = [{"id": t, "text": t} for t in texts]
    write_tiny_suite(folder, SUITE + TARGETS + text, records, seed=5)
    (folder / "plugin.py").write_text(PLUGIN)
    plugins = [str(folder / "plugin.py")]
    record([folder], plugins=plugins, allow_ci=True, allow_dirty=True)

    report = run([folder], plugins=plugins, out=tmp_path / "run")

    found = {target.name.removeprefix("tiny/"): target for target in report.targets}
    name = "ordering.logits.kl[torch/mxfp4_weight_only]"
    sound, spoilt = found["torch/fp8_weight_only"], found["broken/fp8_weight_only"]
    assert sound.measurements[name].high < 0
    assert spoilt.measurements[name].low > 0
    assert {c.check for c in spoilt.checks if c.measurement == name} == {"regression"}
    assert any(c.verdict.fails for c in spoilt.checks if c.measurement == name)
    kept = json.loads(
        (tmp_path / "run/targets/tiny/broken/fp8_weight_only/evidence.json").read_text()
    )
    assert kept["evidence"]["orderings"][0]["other"] == "torch/mxfp4_weight_only"
