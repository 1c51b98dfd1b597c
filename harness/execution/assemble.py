"""From what a worker measured to what the judge reads: one `Evidence` a target."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from harness.execution.anomalies import find_anomalies
from harness.execution.answers import behaviour_evidence, recorded_replies
from harness.execution.apart import two_draws
from harness.execution.context import Context, clustered, drift_of, tags_of
from harness.execution.errors_by_case import paired
from harness.execution.jobs import REWRITTEN, OracleRun, Outputs, TargetRun
from harness.execution.metrics_by_case import metrics, reply_metrics
from harness.execution.replies import REPLY, limit_of_replies
from harness.execution.suite import Target
from harness.judge.evidence import (
    BaselineEvidence,
    Budget,
    Evidence,
    Paired,
    StabilityEvidence,
)


def assemble(
    context: Context,
    target: Target,
    run: TargetRun,
    *,
    oracle: OracleRun | None,
    baseline: BaselineEvidence | None,
    budgets: Mapping[str, Budget],
) -> Evidence:
    """All that was measured of one target, ready to be judged."""
    anomalies = tuple(find_anomalies(context, run.outputs)) if run.outputs else ()
    drift = drift_of(context, run.outputs) if run.outputs else None
    oracle_drift = end_to_end = None
    if oracle is not None and run.outputs:
        oracle_drift = drift_of(context, oracle.outputs)
        end_to_end = clustered(context, paired(oracle.outputs, run.outputs))
    floor = max(context.golden.noise_floor.values(), default=0.0)
    measured = metrics(
        context.description,
        context.golden,
        run.outputs,
        plugged=context.metrics,
        budgets=budgets,
    )
    measured.metrics += reply_metrics(recorded_replies(context.golden), run.replies)
    return Evidence(
        suite=context.suite.name,
        backend=target.backend,
        scheme=target.scheme.name,
        seed=context.suite.seed,
        required=target.required,
        weight_only=target.scheme.weight_only,
        execution=_execution(run),
        failure=run.failure,
        budgets=budgets,
        weights=run.weights,
        activations_expected=run.activations_expected,
        activations_found=run.activations_found,
        anomalies=anomalies,
        stability=_stability(context, target, run, drift, floor),
        operators=run.operators,
        paths=run.paths,
        paths_skipped=run.paths_skipped,
        uncaptured=run.uncaptured,
        drift=drift,
        oracle_drift=oracle_drift,
        end_to_end=end_to_end,
        noise_floor=floor,
        metrics=tuple(measured.metrics),
        rows=tuple(measured.rows),
        behaviours=behaviour_evidence(context, run) if run.outputs else (),
        baseline=baseline,
        tags=tags_of(context),
        latency=run.latency,
        timings=run.timings,
    )


def _execution(run: TargetRun) -> str:
    if run.arithmetic is None:
        return ""
    detail = f": {run.arithmetic.detail}" if run.arithmetic.detail else ""
    return f"{run.arithmetic.execution}{detail}"


def _stability(
    context: Context,
    target: Target,
    run: TargetRun,
    drift: Paired | None,
    floor: float,
) -> tuple[StabilityEvidence, ...]:
    """Each repetition with what may differ, and why.

    The same batches again must be the same bits from a backend that declares itself
    exact. One that does not may add the products in another order, as another batch
    size does. A weight-only target may then move as the reference itself does; where
    activations are quantized, a last-bit difference flips roundings and the two runs
    are two draws of the quantization noise, whose difference is at most sqrt(2) times
    the drift.
    The drift of a run that is wrong would excuse the difference, so of the two runs
    the one that drifted less on these very cases counts, see `_two_draws`.
    """
    found = []
    exact = run.arithmetic is None or run.arithmetic.determinism == "exact"
    for repeat in run.repeats:
        if repeat.name == REWRITTEN:
            limit, source = 0.0, "a backend returns arrays of its own"
        elif run.drawable and drift is not None:
            # Two runs share the device, so they are at most two draws of its noise.
            limit = _two_draws(context, run.outputs, repeat.outputs, None)
            source = "two draws of the device's noise"
        elif repeat.name == "repeat" and exact:
            limit, source = 0.0, "declared exact"
        elif target.scheme.weight_only or drift is None:
            limit, source = float(np.sqrt(2) * floor), "sqrt(2) x recorded noise floor"
        else:
            limit = _two_draws(context, run.outputs, repeat.outputs, drift)
            limit = max(limit, float(np.sqrt(2) * floor))
            source = "two draws of the quantization noise"
        if repeat.name == REPLY:
            least = float(np.sqrt(2) * floor)
            limit, source = limit_of_replies(run, limit, source, least)
        found.append(
            StabilityEvidence(
                name=repeat.name,
                differences=np.array([repeat.difference.ratio]),
                limit=limit,
                limit_source=source,
                cases=repeat.difference.cases,
            )
        )
    return tuple(found)


def _two_draws(
    context: Context, first: Outputs, second: Outputs, overall: Paired | None
) -> float:
    """How far two runs that are two draws of the same noise can be apart."""
    cases = [case for case in second if case in first]
    runs = [{case: run[case] for case in cases} for run in (first, second)]
    smaller = min(drift_of(context, outputs).ratio for outputs in runs)
    return two_draws(smaller, len(cases), overall)
