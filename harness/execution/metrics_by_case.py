"""What each kind of output is measured by, case by case."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from harness.behaviours.types import Replies, Reply
from harness.compare.catalogue import ROW_METRICS, Metric, metrics_for
from harness.compare.metric import RowMetric, Shared, measure_all, measure_rows
from harness.compare.text import edit_distance
from harness.execution.jobs import Description, Outputs
from harness.golden.compact import CompactOutput
from harness.golden.store import Golden
from harness.judge.evidence import MetricEvidence, RowsEvidence

Array = np.ndarray[Any, np.dtype[Any]]


@dataclass
class Measured:
    """Every output's metrics by case, and distances by row."""

    metrics: list[MetricEvidence] = field(default_factory=list)
    rows: list[RowsEvidence] = field(default_factory=list)


def metrics(
    description: Description,
    golden: Golden,
    outputs: Outputs,
    *,
    plugged: Mapping[str, Metric] | None = None,
    budgets: Collection[str] = (),
) -> Measured:
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
    found = Measured()
    for spec in description.outputs:
        kept = [golden.outputs[case].get(spec.name) for case in cases]
        chosen, by_row = _chosen(spec.kind, kept, plugged)
        both = [
            _values(chosen, by_row, entry, outputs[case].get(spec.name))
            for case, entry in zip(cases, kept, strict=True)
        ]
        rows = [values for values, _ in both]
        for name, metric in chosen.items():
            full_name = f"{spec.name}.{name}"
            # A change of a score is measured from no change.
            directed = name == "delta_p" and f"{full_name}.loss" in budgets
            found.metrics.append(
                MetricEvidence(
                    name=full_name,
                    values=np.array([row[name] for row in rows], dtype=np.float64),
                    reference=np.zeros(len(rows)) if directed else None,
                    cases=cases,
                    better=metric.better,
                    unit=metric.unit,
                )
            )
        for name, by_token in by_row.items():
            by_case = [rows[name] for _, rows in both]
            found.rows.extend(_rows_of(f"{spec.name}.{name}", by_token, cases, by_case))
    return found


def _chosen(
    kind: str,
    kept: list[CompactOutput | None],
    plugged: Mapping[str, Metric] | None,
) -> tuple[dict[str, Metric], dict[str, RowMetric]]:
    """Metrics of the kind; those of right tokens where the golden knows them."""
    chosen, needs = metrics_for(kind, plugged), {kind}
    if kind == "logits" and any(e is not None and "labels" in e.tensors for e in kept):
        chosen |= metrics_for("labels", plugged)
        needs.add("labels")
    return chosen, {m.name: m for m in ROW_METRICS if m.needs in needs}


def _values(
    chosen: Mapping[str, Metric],
    by_row: Mapping[str, RowMetric],
    entry: CompactOutput | None,
    full: Array | None,
) -> tuple[dict[str, float], dict[str, Array]]:
    """Every metric of one case; the worst where there is nothing to compare."""
    worst = {name: metric.worst for name, metric in chosen.items()}
    bad = {name: np.array([metric.worst]) for name, metric in by_row.items()}
    if entry is None or full is None or tuple(full.shape) != tuple(entry.shape):
        return worst, bad
    if not np.isfinite(full).all():
        return worst, bad
    reference = entry.array if entry.kind == "full" else entry
    shared: Shared = {}
    values = measure_all(chosen, reference, full, shared)
    return values, measure_rows(by_row, reference, full, shared)


def _rows_of(
    name: str, metric: RowMetric, cases: Sequence[str], rows: Sequence[Array]
) -> Iterator[RowsEvidence]:
    """Of the cases that have any, e.g. a right token; nothing where none has."""
    kept = [index for index, values in enumerate(rows) if len(values)]
    if kept:
        yield RowsEvidence(
            name=name,
            rows=tuple(np.asarray(rows[index], np.float64) for index in kept),
            cases=tuple(cases[index] for index in kept),
            quantiles=metric.quantiles,
            better=metric.better,
            unit=metric.unit,
        )


def reply_metrics(recorded: Replies, found: Replies) -> list[MetricEvidence]:
    """How far each reply is from the reference's.

    Tokens before the first that is another one, or before the end; and edits of tokens
    and of characters, as a share of the longer reply: 0 where nothing changed, 1 where
    nothing stayed. Sampled replies count too: reference and target draw alike.
    """
    cases = tuple(case for case in found if case in recorded)
    if not cases:
        return []
    pairs = [(recorded[case], found[case]) for case in cases]
    return [
        MetricEvidence(
            name=f"reply.{name}",
            values=np.array([measure(*pair) for pair in pairs], dtype=np.float64),
            cases=cases,
            better="higher" if unit else "lower",
            unit=unit,
        )
        for name, measure, unit in (
            ("first_divergence", _same_tokens, "tokens"),
            ("token_edits", _token_edits, ""),
            ("character_edits", _character_edits, ""),
        )
    ]


def _same_tokens(first: Reply, second: Reply) -> int:
    size = min(len(first.tokens), len(second.tokens))
    differs = np.flatnonzero(first.tokens[:size] != second.tokens[:size])
    return int(differs[0]) if differs.size else size


def _token_edits(first: Reply, second: Reply) -> float:
    return _share(first.tokens.tolist(), second.tokens.tolist())


def _character_edits(first: Reply, second: Reply) -> float:
    return _share(first.text, second.text)


def _share(first: Sequence[Any], second: Sequence[Any]) -> float:
    return edit_distance(first, second) / max(len(first), len(second), 1)
