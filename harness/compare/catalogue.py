"""Every metric, declared once: its name, which way is better, how it is judged.

A plugin adds one with `registry.add_metric(Metric(...))`; a suite then budgets it
under `OUTPUT.NAME` like those that ship.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final, Literal

import numpy as np

from harness.compare.arrays import as_array
from harness.compare.embeddings import cosine_rows
from harness.compare.logits import LogitsComparison, compare_logits
from harness.compare.tensors import compare

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
        measure: value of (reference, candidate); must not return NaN.
        summary: one line for reports.
    """

    name: str
    better: Literal["lower", "higher"]
    unit: str
    needs: Needs
    worst: float
    measure: Callable[[Any, Any], float]
    summary: str
    noise: Literal["deterministic", "noisy"] = "deterministic"
    interval: Literal["bootstrap by case", "bootstrap by cluster"] = "bootstrap by case"

    def __call__(self, reference: Any, candidate: Any) -> float:
        """The value; the worst one where it would be NaN."""
        value = float(self.measure(reference, candidate))
        return self.worst if math.isnan(value) else value


def _tensor(name: str) -> Callable[[Any, Any], float]:
    def measure(reference: Any, candidate: Any) -> float:
        return float(getattr(compare(reference, candidate), name))

    return measure


def _magnitude(name: str) -> Callable[[Any, Any], float]:
    def measure(reference: Any, candidate: Any) -> float:
        return abs(float(getattr(compare(reference, candidate), name)))

    return measure


def _logits(name: str) -> Callable[[Any, Any], float]:
    def measure(reference: Any, candidate: Any) -> float:
        found: LogitsComparison = compare_logits(reference, candidate)
        value = getattr(found, name)
        return math.nan if value is None or found.problem else float(value)

    return measure


def _probabilities(name: str) -> Callable[[Any, Any], float]:
    """A metric of logits, of probabilities: their logarithms are logits."""

    def measure(reference: Any, candidate: Any) -> float:
        both = [as_array(x).astype(np.float64) for x in (reference, candidate)]
        if any(not np.isfinite(x).all() or (x < 0).any() for x in both):
            return math.nan
        with np.errstate(divide="ignore"):
            logs = [np.maximum(np.log(x), -700.0) for x in both]
        return _logits(name)(*logs)

    return measure


def _cosine_distance(reference: Any, candidate: Any) -> float:
    a, b = (as_array(x).astype(np.float64) for x in (reference, candidate))
    if a.shape != b.shape or a.size == 0:
        return math.nan
    if not (np.isfinite(a).all() and np.isfinite(b).all()):
        return math.nan
    rows = cosine_rows(a.reshape(-1, a.shape[-1]), b.reshape(-1, b.shape[-1]))
    return float(1 - rows.mean())


_TOKENS: Final = "bootstrap by cluster"


def _of_tokens(
    needs: Needs,
    source: Callable[[str], Callable[[Any, Any], float]],
    *,
    noise: Literal["deterministic", "noisy"],
) -> tuple[Metric, ...]:
    """Metrics of token distributions; noisy where a golden kept a sample of them."""
    return (
        Metric(
            name="kl",
            better="lower",
            unit="nats",
            needs=needs,
            worst=math.inf,
            measure=source("kl"),
            summary="mean KL(reference || candidate)",
            noise=noise,
            interval=_TOKENS,
        ),
        Metric(
            name="js",
            better="lower",
            unit="nats",
            needs=needs,
            worst=math.inf,
            measure=source("js"),
            summary="mean Jensen-Shannon divergence",
            noise=noise,
            interval=_TOKENS,
        ),
        Metric(
            name="top1_agreement",
            better="higher",
            unit="1",
            needs=needs,
            worst=0.0,
            measure=source("top1_agreement"),
            summary="share of positions with the same most likely class",
            interval=_TOKENS,
        ),
    )


_ALL: Final = (
    Metric(
        name="relative_l2",
        better="lower",
        unit="1",
        needs="tensor",
        worst=math.inf,
        measure=_tensor("relative_l2"),
        summary="||candidate - reference|| / ||reference||",
    ),
    Metric(
        name="sqnr_db",
        better="higher",
        unit="dB",
        needs="tensor",
        worst=-math.inf,
        measure=_tensor("sqnr_db"),
        summary="signal to quantization noise ratio",
    ),
    Metric(
        name="cosine",
        better="higher",
        unit="1",
        needs="tensor",
        worst=-1.0,
        measure=_tensor("cosine"),
        summary="cosine of the whole tensors",
    ),
    Metric(
        name="max_abs",
        better="lower",
        unit="",
        needs="tensor",
        worst=math.inf,
        measure=_tensor("max_abs"),
        summary="largest absolute error",
    ),
    Metric(
        name="max_rel",
        better="lower",
        unit="1",
        needs="tensor",
        worst=math.inf,
        measure=_tensor("max_rel"),
        summary="largest relative error",
    ),
    Metric(
        name="max_ulp",
        better="lower",
        unit="ulp",
        needs="tensor",
        worst=math.inf,
        measure=_tensor("max_ulp"),
        summary="largest error in units in the last place",
    ),
    Metric(
        name="mse",
        better="lower",
        unit="",
        needs="tensor",
        worst=math.inf,
        measure=_tensor("mse"),
        summary="mean squared error",
    ),
    Metric(
        name="bias",
        better="lower",
        unit="",
        needs="tensor",
        worst=math.inf,
        measure=_magnitude("bias"),
        summary="size of the mean signed error",
    ),
    Metric(
        name="cosine_distance",
        better="lower",
        unit="1",
        needs="embedding",
        worst=2.0,
        measure=_cosine_distance,
        summary="1 - mean cosine of the embeddings",
    ),
    *_of_tokens("logits", _logits, noise="noisy"),
    *_of_tokens("distribution", _probabilities, noise="deterministic"),
    Metric(
        name="delta_p_rms",
        better="lower",
        unit="1",
        needs="labels",
        worst=math.inf,
        measure=_logits("delta_p_rms"),
        summary="root mean square change of the right token's probability",
        interval=_TOKENS,
    ),
    Metric(
        name="perplexity_ratio",
        better="lower",
        unit="1",
        needs="labels",
        worst=math.inf,
        measure=_logits("perplexity_ratio"),
        summary="candidate's over reference's perplexity of the right tokens",
        interval=_TOKENS,
    ),
)

#: (needs, name) -> metric.
METRICS: Final[Mapping[tuple[str, str], Metric]] = {
    (metric.needs, metric.name): metric for metric in _ALL
}


def metrics_for(
    kind: str, plugged: Mapping[str, Metric] | None = None
) -> dict[str, Metric]:
    """Metrics that mean something for an output kind, plugins' included, by name.

    Args:
        kind: "tensor", "embedding", "distribution" or "logits".
        plugged: `registry.metrics`; one of the same name and need replaces ours.
    """
    every: dict[tuple[str, str], Metric] = dict(METRICS)
    every.update({(m.needs, m.name): m for m in (plugged or {}).values()})
    wanted = {"tensor", kind} if kind == "embedding" else {kind}
    return {m.name: m for m in every.values() if m.needs in wanted}
