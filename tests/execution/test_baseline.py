"""A baseline is another run of the same target: compared with, or named as stale."""

from __future__ import annotations

import dataclasses
import json
from types import SimpleNamespace

import numpy as np
import pytest

from harness.backends.protocol import Availability
from harness.execution.baseline import Baseline, whereabouts
from harness.execution.errors_by_case import paired
from harness.execution.jobs import TargetRun
from harness.execution.run_folder import target_folder, write_report, write_target
from harness.golden import run_store
from harness.golden.environment import environment
from harness.golden.run_store import write_run_outputs
from harness.golden.store import Golden, compact
from harness.judge import judge_run
from harness.judge.evidence import Evidence, MetricEvidence
from harness.judge.types import Report
from harness.reports import markdown

RNG = np.random.default_rng(3)
CASES = tuple(f"case-{i}" for i in range(30))
REFERENCE = {case: {"y": RNG.standard_normal(64)} for case in CASES}
SUITE = SimpleNamespace(name="s")
TARGET = SimpleNamespace(name="b/fp8", backend="b")
CONTEXT = SimpleNamespace(
    reference=REFERENCE,
    golden=Golden(
        suite="s",
        model_fingerprint="",
        cases_fingerprint="",
        outputs={
            case: {"y": compact(arrays["y"])} for case, arrays in REFERENCE.items()
        },
    ),
)


def run_with(noise, version="1.0", seed=0):
    """What a worker measured: the reference with noise."""
    rng = np.random.default_rng(seed)
    outputs = {
        case: {"y": arrays["y"] + noise * rng.standard_normal(64)}
        for case, arrays in REFERENCE.items()
    }
    return TargetRun(
        availability=Availability(available=True, version=version, device="cpu"),
        outputs=outputs,
    )


def evidence_of(run):
    """Today's evidence, as far as a regression needs it."""
    return Evidence(
        suite="s",
        backend="b",
        scheme="fp8",
        seed=1,
        drift=paired(REFERENCE, run.outputs),
        activations_found=("x",),
        activations_expected=("x",),
    )


@pytest.fixture
def accepted(tmp_path):
    """A run folder with one target, and what it gave."""
    run = run_with(0.05)
    evidence = evidence_of(run)
    judged = judge_run([evidence])
    folder = target_folder(tmp_path, "s", "b/fp8")
    write_run_outputs(folder, run.outputs, where=whereabouts(TARGET, run))
    write_target(judged[0], evidence, folder)
    report = Report(run="before", environment=environment(), targets=judged)
    write_report(report, tmp_path)
    return tmp_path, run


def against(folder, run, **more):
    """Today's judgement beside the baseline's run."""
    baseline = Baseline.read(folder, **more).evidence(SUITE, TARGET, run, CONTEXT)
    return judge_run([dataclasses.replace(evidence_of(run), baseline=baseline)])[0]


def decision(judged):
    """The regression check's verdict and reason."""
    (found,) = [c for c in judged.checks if c.check == "regression"][:1]
    return str(found.verdict), found.reason


def test_the_same_bits_are_no_regression(accepted):
    """Equal outputs end the question."""
    folder, run = accepted
    assert "pass" == decision(against(folder, run))[0]


def test_a_rise_is_a_regression_with_the_environment_beside_it(accepted):
    """What differs between the two environments stands in the reason."""
    folder, _ = accepted
    data = json.loads((folder / "run.json").read_text())
    data["environment"]["package.torch"] = "0.0.1"
    (folder / "run.json").write_text(json.dumps(data))
    verdict, reason = decision(against(folder, run_with(0.1)))

    assert "regression" == verdict
    assert "environment: package.torch 0.0.1 ->" in reason


def test_other_noise_of_the_same_size_is_changed(accepted):
    """Moved but not worse."""
    folder, _ = accepted
    verdict, reason = decision(against(folder, run_with(0.05, seed=9)))
    assert verdict == "changed", reason


@pytest.mark.parametrize("noise", [0.05, 0.1])
def test_another_version_is_stale_until_it_is_asked_for(accepted, noise):
    """Quantized outputs are keyed by version; `across_versions` compares them."""
    folder, _ = accepted
    newer = run_with(noise, version="2.0")
    verdict, reason = decision(against(folder, newer))

    assert "stale" == verdict
    assert "backend_version 1.0 -> 2.0" in reason
    verdict, _ = decision(against(folder, newer, across_versions=True))
    assert ("regression" if noise > 0.05 else "pass") == verdict


def test_another_hardware_class_is_stale(accepted, monkeypatch):
    """Whatever is asked for."""
    folder, run = accepted
    here = environment()
    monkeypatch.setattr(run_store, "environment", lambda: {**here, "cpu_flags": "x"})

    assert "stale" == decision(against(folder, run, across_versions=True))[0]


def test_another_model_is_stale(accepted):
    """Outputs of a model that is no longer today's are not compared."""
    folder, run = accepted
    other = dataclasses.replace(CONTEXT.golden, model_fingerprint="other")
    context = SimpleNamespace(reference=REFERENCE, golden=other)
    found = Baseline.read(folder).evidence(SUITE, TARGET, run, context)

    assert "outputs of another model" in found.problem
    evidence = dataclasses.replace(evidence_of(run), baseline=found)
    assert "stale" == decision(judge_run([evidence])[0])[0]


def test_the_baselines_own_metrics_and_answers_come_back(accepted):
    """They are read from the evidence that was kept then."""
    folder, run = accepted
    path = target_folder(folder, "s", "b/fp8")
    kept = MetricEvidence(name="y.kl", values=np.ones(30), cases=CASES)
    evidence = dataclasses.replace(evidence_of(run), metrics=(kept,))
    write_target(judge_run([evidence])[0], evidence, path)
    found = Baseline.read(folder).evidence(SUITE, TARGET, run, CONTEXT)

    assert CASES == found.metrics["y.kl"].cases


def test_a_new_target_has_no_baseline(accepted):
    """Nothing to compare with is no verdict."""
    folder, run = accepted
    other = SimpleNamespace(name="b/int8", backend="b")
    assert Baseline.read(folder).evidence(SUITE, other, run, CONTEXT) is None


def test_the_summary_lists_the_environment(accepted):
    """So does the Markdown of the gate."""
    folder, _ = accepted
    report = Baseline.read(folder).report
    text = markdown.render(report, {"package.torch": ("0.0.1", "2.0")})
    assert "| package.torch | 0.0.1 | 2.0 |" in text
