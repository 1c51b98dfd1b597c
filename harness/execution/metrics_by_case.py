"""What each kind of output is measured by, case by case."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from typing import Any

import numpy as np

from harness.compare.catalogue import Metric, measure_all, metrics_for
from harness.execution.jobs import Description, Outputs
from harness.golden.compact import CompactOutput
from harness.golden.store import Golden
from harness.judge.evidence import MetricEvidence

Array = np.ndarray[Any, np.dtype[Any]]


def metrics(
    description: Description,
    golden: Golden,
    outputs: Outputs,
    *,
    plugged: Mapping[str, Metric] | None = None,
    budgets: Collection[str] = (),
) -> Iterator[MetricEvidence]:
    """`OUTPUT.METRIC` for every output that golden and run both have.

    Args:
        description: what each output means.
        golden: the reference's outputs, whole or compact.
        outputs: the target's whole outputs.
        plugged: metrics of plugins, by name (`registry.metrics`).
        budgets: names of all budgets. `OUTPUT.delta_p.loss` asks for the direction:
            whether the right tokens lost more probability than that.
    """
    cases = tuple(case for case in golden.outputs if case in outputs)
    for spec in description.outputs:
        kept = [golden.outputs[case].get(spec.name) for case in cases]
        chosen = _chosen(spec.kind, kept, plugged)
        rows = [
            _values(chosen, entry, outputs[case].get(spec.name))
            for case, entry in zip(cases, kept, strict=True)
        ]
        for name, metric in chosen.items():
            full_name = f"{spec.name}.{name}"
            # A change of a score is measured from no change.
            directed = name == "delta_p" and f"{full_name}.loss" in budgets
            yield MetricEvidence(
                name=full_name,
                values=np.array([row[name] for row in rows], dtype=np.float64),
                reference=np.zeros(len(rows)) if directed else None,
                cases=cases,
                better=metric.better,
                unit=metric.unit,
            )


def _chosen(
    kind: str,
    kept: list[CompactOutput | None],
    plugged: Mapping[str, Metric] | None,
) -> dict[str, Metric]:
    """Metrics of the kind; those of right tokens where the golden knows them."""
    chosen = metrics_for(kind, plugged)
    if kind == "logits" and any(e is not None and "labels" in e.tensors for e in kept):
        chosen |= metrics_for("labels", plugged)
    return chosen


def _values(
    chosen: Mapping[str, Metric], entry: CompactOutput | None, full: Array | None
) -> dict[str, float]:
    """Every metric of one case; the worst where there is nothing to compare."""
    worst = {name: metric.worst for name, metric in chosen.items()}
    if entry is None or full is None or tuple(full.shape) != tuple(entry.shape):
        return worst
    if not np.isfinite(full).all():
        return worst
    reference = entry.array if entry.kind == "full" else entry
    return measure_all(chosen, reference, full)
