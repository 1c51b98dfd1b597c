"""A metric as data, and measuring several of them at once."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

Array = np.ndarray[Any, np.dtype[Any]]
Needs = Literal["tensor", "embedding", "distribution", "logits", "labels"]


@dataclass(frozen=True, kw_only=True)
class Metric:
    """A measurement of one output of one case.

    Attributes:
        name: after the output's name in budgets and reports, `OUTPUT.NAME`.
        better: "lower" or "higher".
        unit: "nats", "dB", "1" (a ratio or share), ...; "" for the output's own unit.
        needs: kind of output, or "labels" for logits with known right tokens.
        worst: value where nothing can be compared; no threshold passes it.
        noise: "deterministic" if equal outputs give equal values, "noisy" if the value
            has a sampling error of its own.
        interval: how its mean over cases gets an interval: by cases, or by documents
            or prompts (clusters), since tokens of one text are not independent.
        measure: value of (reference, candidate), arrays of one shape; NaN counts as
            `worst`. With `prepare`, the value of what that returned.
        summary: one line for reports.
        prepare: what several metrics share, computed once for all of them from
            (reference, candidate); its reference may be a golden's compact output, its
            candidate is the target's whole output.
    """

    name: str
    better: Literal["lower", "higher"]
    unit: str
    needs: Needs
    worst: float
    measure: Callable[..., float]
    summary: str
    noise: Literal["deterministic", "noisy"] = "deterministic"
    interval: Literal["bootstrap by case", "bootstrap by cluster"] = "bootstrap by case"
    prepare: Callable[[Any, Any], Any] | None = None

    def __call__(self, reference: Any, candidate: Any) -> float:
        """The value; the worst one where it would be NaN."""
        return measure_all({self.name: self}, reference, candidate)[self.name]


@dataclass(frozen=True, kw_only=True)
class RowMetric:
    """A distance of every row of one output of one case, of which quantiles are taken.

    Attributes:
        name: after the output's name, before the quantile's: `OUTPUT.NAME.QUANTILE`.
        better: "lower" or "higher".
        unit: as of a `Metric`.
        needs: as of a `Metric`.
        rows: float64 values of what `prepare` returned.
        prepare: as of a `Metric`; shared with metrics that have the same.
        worst: a row of a case where nothing can be compared.
        quantiles: name -> share of rows at or below.
        summary: one line for reports.
    """

    name: str
    better: Literal["lower", "higher"]
    unit: str
    needs: Needs
    rows: Callable[[Any], Array]
    prepare: Callable[[Any, Any], Any]
    quantiles: Mapping[str, float]
    worst: float
    summary: str


#: Results that metrics share, by what prepares them.
Shared = dict[Callable[[Any, Any], Any], Any]


def measure_rows(
    metrics: Mapping[str, RowMetric], reference: Any, candidate: Any, shared: Shared
) -> dict[str, Array]:
    """The rows of every metric; `shared` is read and filled as by `measure_all`."""
    found = {}
    for name, metric in metrics.items():
        if metric.prepare not in shared:
            shared[metric.prepare] = metric.prepare(reference, candidate)
        found[name] = metric.rows(shared[metric.prepare])
    return found


def measure_all(
    metrics: Mapping[str, Metric],
    reference: Any,
    candidate: Any,
    shared: Shared | None = None,
) -> dict[str, float]:
    """Every metric of one output, what they share computed once.

    Args:
        metrics: by name.
        reference: an array, or a golden's compact output (`array`, `project`).
        candidate: the target's whole output.
        shared: what was prepared before, and is prepared here.

    Returns:
        Values in the order of `metrics`; `worst` where a value would be NaN.
    """
    shared = {} if shared is None else shared
    found = {}
    for name, metric in metrics.items():
        if metric.prepare is None:
            value = float(metric.measure(*alike(reference, candidate)))
        else:
            if metric.prepare not in shared:
                shared[metric.prepare] = metric.prepare(reference, candidate)
            value = float(metric.measure(shared[metric.prepare]))
        found[name] = metric.worst if math.isnan(value) else value
    return found


def alike(reference: Any, candidate: Any) -> tuple[Any, Any]:
    """Both as arrays of one shape: what a compact output kept, of both."""
    if hasattr(reference, "project"):
        return reference.array, reference.project(candidate)
    return reference, candidate
