"""From what a worker measured to what the judge reads: one `Evidence` a target."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from harness.backends.registry import Registry
from harness.behaviours.kinds import KINDS
from harness.behaviours.types import Answer, Behaviour, Replies, Reply
from harness.compare.catalogue import Metric
from harness.execution.apart import two_draws
from harness.execution.errors_by_case import paired
from harness.execution.jobs import (
    REWRITTEN,
    Description,
    OracleRun,
    Outputs,
    TargetRun,
)
from harness.execution.metrics_by_case import metrics, reply_metrics
from harness.execution.replies import REPLY, limit_of_replies
from harness.execution.suite import Suite, Target
from harness.golden.store import Golden
from harness.judge.evidence import (
    Anomaly,
    BaselineEvidence,
    BehaviourEvidence,
    Budget,
    Evidence,
    Paired,
    StabilityEvidence,
)
from harness.judge.slices import SOURCES, clusters_of
from harness.models.types import Case

Array = np.ndarray[Any, np.dtype[Any]]

#: Under which behaviours a golden keeps what the reference wrote.
REPLIES: Final = "replies"


@dataclass(frozen=True, kw_only=True)
class Context:
    """What all targets of a suite share."""

    suite: Suite
    description: Description
    golden: Golden
    #: Golden outputs as arrays: case -> output -> array.
    reference: Mapping[str, Mapping[str, Array]]
    behaviours: Mapping[str, Any]
    #: Metrics of plugins, by name.
    metrics: Mapping[str, Metric]
    #: Every case of the golden, also those that are not run.
    every: frozenset[str] = frozenset()


def make_context(
    suite: Suite, description: Description, golden: Golden, registry: Registry
) -> Context:
    """Decode the golden once for all targets, of the cases that are run."""
    cases = {case.id for case in description.cases}
    every = frozenset(golden.outputs)
    golden = dataclasses.replace(
        golden, outputs={c: o for c, o in golden.outputs.items() if c in cases}
    )
    reference = {
        case: {name: entry.array for name, entry in outputs.items()}
        for case, outputs in golden.outputs.items()
    }
    return Context(
        suite=suite,
        description=description,
        golden=golden,
        reference=reference,
        behaviours={**KINDS, **registry.behaviours},
        metrics=registry.metrics,
        every=every,
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
        behaviours=_behaviours(context, run) if run.outputs else (),
        baseline=baseline,
        tags=_tags(context),
        latency=run.latency,
        timings=run.timings,
    )


def _tags(context: Context) -> dict[str, tuple[str, ...]]:
    """Tags of every case; a variant has the source of its original, or its id."""
    cases = context.description.cases
    original = {case.id: case.variant_of for case in cases if case.variant_of}
    tags = {case.id: case.tags for case in cases}
    for name in original:
        root = name
        while root in original:
            root = original[root]
        own = [tag for tag in tags.get(root, ()) if tag.startswith(SOURCES)]
        source = own[0] if own else f"prompt:{root}"
        for one in (root, name):
            if one in tags and not any(t.startswith(SOURCES) for t in tags[one]):
                tags[one] = (*tags[one], source)
    return tags


def clustered(context: Context, found: Paired) -> Paired:
    """With the document or prompt that each case was taken from, by its tags."""
    return dataclasses.replace(found, clusters=clusters_of(_tags(context), found.cases))


def _execution(run: TargetRun) -> str:
    if run.arithmetic is None:
        return ""
    detail = f": {run.arithmetic.detail}" if run.arithmetic.detail else ""
    return f"{run.arithmetic.execution}{detail}"


def drift_of(context: Context, outputs: Outputs) -> Paired:
    """Against the golden, on what the golden kept of each output."""
    golden = context.golden

    def project(case: str, name: str, full: Array) -> Array:
        return golden.outputs[case][name].project(full)

    return clustered(context, paired(context.reference, outputs, project=project))


def find_anomalies(context: Context, outputs: Outputs) -> list[Anomaly]:
    """What is wrong with an output by itself, whatever its distance."""
    found = []
    for case, expected in context.golden.outputs.items():
        arrays = outputs.get(case)
        if arrays is None:
            found.append(
                Anomaly(case=case, output="*", kind="missing", detail="not run")
            )
            continue
        found.extend(
            Anomaly(case=case, output=name, kind="extra", detail="not in the golden")
            for name in sorted(set(arrays) - set(expected))
        )
        for name, entry in expected.items():
            kind, detail = _anomaly(
                entry.shape, context.reference[case][name], arrays.get(name)
            )
            if kind:
                found.append(Anomaly(case=case, output=name, kind=kind, detail=detail))
    return found


def _anomaly(
    shape: tuple[int, ...], reference: Array, array: Array | None
) -> tuple[str, str]:
    """Kind and detail; two empty strings when nothing is wrong."""
    if array is None:
        return "missing", "the target does not give this output"
    if tuple(array.shape) != tuple(shape):
        return "shape", f"shape={tuple(array.shape)}, but should be {tuple(shape)}"
    if array.dtype.kind not in "fiub":
        return "dtype", f"dtype={array.dtype}, but should be a real number"
    values = np.asarray(array, dtype=np.float64)
    if np.isfinite(reference.astype(np.float64)).all():
        nan, inf = int(np.isnan(values).sum()), int(np.isinf(values).sum())
        if nan:
            return "nan", f"{nan} of {values.size} values, none in the reference"
        if inf:
            return "inf", f"{inf} of {values.size} values, none in the reference"
    if values.size > 1 and np.ptp(reference.astype(np.float64)) > 0:
        if not values.any():
            return "zero", f"all {values.size} values are zero"
        if np.ptp(values) == 0:
            return "constant", f"all {values.size} values are {values.flat[0]:g}"
    return "", ""


def _stability(
    context: Context,
    target: Target,
    run: TargetRun,
    drift: Paired | None,
    floor: float,
) -> tuple[StabilityEvidence, ...]:
    """Each repetition with what may differ, and why.

    The same batches again must be the same bits from a backend that declares itself
    exact. Another batch size adds the products in another order. A weight-only
    target may then move as the reference itself does; where activations are
    quantized, a last-bit difference flips roundings and the two runs are two draws
    of the quantization noise, whose difference is at most sqrt(2) times the drift.
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
        elif repeat.name == "repeat":
            limit, source = (0.0, "declared exact") if exact else (floor, "noise floor")
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


def _among(context: Context, behaviour: Behaviour) -> dict[str, Answer]:
    """What the reference answers among the cases that are run."""
    kept = context.golden.outputs
    whole = {
        case: {
            name: array
            for name, array in arrays.items()
            if array.shape == kept[case][name].shape
        }
        for case, arrays in context.reference.items()
    }
    if any(len(whole[case]) < len(kept[case]) for case in whole):
        return {}
    kind = context.behaviours[behaviour.kind]
    found: dict[str, Answer] = kind.evaluate(
        asked_of(kind, context.description, whole),
        whole,
        behaviour.options,
        context.description.metadata,
    )
    return found


def answers_of(
    suite: Suite,
    description: Description,
    outputs: Outputs,
    kinds: Mapping[str, Any],
    *,
    replies: Replies,
    reference: Replies | None = None,
) -> dict[str, dict[str, Answer]]:
    """Behaviour name -> case -> answer, of one run.

    Args:
        suite: whose behaviours are evaluated.
        description: its cases and what its model carries.
        outputs: the run's.
        kinds: behaviours by kind.
        replies: what the run's language model wrote.
        reference: what the reference wrote; None: the run is the reference.
    """
    found = {}
    for behaviour in suite.behaviours:
        kind = kinds[behaviour.kind]
        metadata = description.metadata
        given: Any = outputs
        if getattr(kind, "reads", "outputs") == "replies":
            given = replies
            metadata = {**metadata, "reference": reference}
        found[behaviour.name] = kind.evaluate(
            asked_of(kind, description, given), given, behaviour.options, metadata
        )
    if replies:
        found[REPLIES] = {
            case: Answer(r.text, right=True) for case, r in replies.items()
        }
    return found


def recorded_replies(golden: Golden) -> dict[str, Reply]:
    """What the reference wrote, as a golden keeps it: text and token ids."""
    found = {}
    for case, entry in golden.behaviours.get(REPLIES, {}).items():
        tokens = np.array(entry["tokens"], dtype=np.int64)
        found[case] = Reply(
            text=entry["answer"],
            tokens=tokens,
            probabilities=np.array(entry["probabilities"], dtype=np.float32),
            ended=bool(entry["ended"]),
        )
    return found


def asked_of(
    kind: Any, description: Description, outputs: Mapping[str, Any]
) -> Sequence[Case]:
    """The cases that a kind judges, of those in `outputs`: variants are no others."""
    variants = getattr(kind, "variants", False)
    return [
        Case(
            id=case.id,
            inputs={},
            expected=case.expected,
            tags=case.tags,
            variant_of=case.variant_of,
        )
        for case in description.cases
        if case.id in outputs and (variants or not case.variant_of)
    ]


def _behaviours(context: Context, run: TargetRun) -> tuple[BehaviourEvidence, ...]:
    """Right or wrong by case, beside what the reference answered at record time."""
    by_name = {behaviour.name: behaviour for behaviour in context.suite.behaviours}
    whole = context.every <= set(run.outputs)
    found = []
    answers = answers_of(
        context.suite,
        context.description,
        run.outputs,
        context.behaviours,
        replies=run.replies,
        reference=recorded_replies(context.golden),
    )
    answers.pop(REPLIES, None)
    for name, target in answers.items():
        if by_name[name].all_cases and not whole:
            continue
        recorded = _recorded(context, by_name[name], whole=whole)
        kind = context.behaviours[by_name[name].kind]
        unjudged = ""
        if getattr(kind, "variants", False) and not whole and not target:
            unjudged = f"no variant is among the {len(run.outputs)} cases that were run"
        cases = tuple(case for case in target if case in recorded)
        found.append(
            BehaviourEvidence(
                name=name,
                cases=cases,
                reference_right=np.array([recorded[c].right for c in cases], bool),
                target_right=np.array([target[c].right for c in cases], bool),
                answers={c: (recorded[c].text, target[c].text) for c in cases},
                margin=by_name[name].margin,
                clusters=clusters_of(_tags(context), cases),
                relative=getattr(kind, "relative", False),
                unjudged=unjudged,
            )
        )
    return tuple(found)


def _recorded(
    context: Context, behaviour: Behaviour, *, whole: bool
) -> dict[str, Answer]:
    """What the reference answered.

    Where answers depend on what other cases there are, those were given among all of
    them; among some, the reference is asked again, by the outputs that the golden
    keeps. Where it does not keep them whole nobody knows: no case is judged.

    A golden that is older than the behaviour has at least what the reference wrote, and
    a behaviour that reads nothing else can be judged by that.
    """
    kept = context.golden.behaviours.get(behaviour.name)
    kind = context.behaviours[behaviour.kind]
    if getattr(kind, "among_cases", False) and not whole:
        return _among(context, behaviour)
    if kept is not None:
        return {c: Answer(e["answer"], bool(e["right"])) for c, e in kept.items()}
    replies = recorded_replies(context.golden)
    if getattr(kind, "reads", "outputs") != "replies" or not replies:
        return {}
    metadata = {**context.description.metadata, "reference": replies}
    cases = asked_of(kind, context.description, replies)
    found: dict[str, Answer] = kind.evaluate(
        cases, replies, behaviour.options, metadata
    )
    return found
