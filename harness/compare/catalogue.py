"""Every metric, declared once: its name, which way is better, how it is judged.

A plugin adds one with `registry.add_metric(Metric(...))`; a suite then budgets it
under `OUTPUT.NAME` like those that ship.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any, Final, Literal

import numpy as np

from harness.compare.arrays import as_array
from harness.compare.comparison import Comparison
from harness.compare.embeddings import cosine_rows
from harness.compare.logits import LogitsComparison, compare_logits
from harness.compare.metric import Metric, Needs, RowMetric, alike, measure_all
from harness.compare.probabilities import compare_probabilities
from harness.compare.tensors import compare

__all__ = ["METRICS", "ROW_METRICS", "Metric", "measure_all", "metrics_for"]

Array = np.ndarray[Any, np.dtype[Any]]


def _compare(reference: Any, candidate: Any) -> Comparison:
    found = compare(*alike(reference, candidate))
    assert isinstance(found, Comparison)  # sanity check: arrays, not mappings
    return found


def _tensor(name: str) -> Callable[[Comparison], float]:
    return lambda found: float(getattr(found, name))


def _magnitude(name: str) -> Callable[[Comparison], float]:
    return lambda found: abs(float(getattr(found, name)))


def _tokens(name: str) -> Callable[[LogitsComparison], float]:
    def measure(found: LogitsComparison) -> float:
        if name.startswith("delta_p") and not found.labelled:
            return math.nan
        value = getattr(found, name)
        return math.nan if value is None or found.problem else float(value)

    return measure


def _cosine_distance(reference: Any, candidate: Any) -> float:
    a, b = (as_array(x).astype(np.float64) for x in (reference, candidate))
    if a.shape != b.shape or a.size == 0:
        return math.nan
    if not (np.isfinite(a).all() and np.isfinite(b).all()):
        return math.nan
    rows = cosine_rows(a.reshape(-1, a.shape[-1]), b.reshape(-1, b.shape[-1]))
    return float(1 - rows.mean())


#: Quantiles of what has a bad end, and of what can go both ways.
UPPER: Final = {
    "median": 0.5,
    "p90": 0.9,
    "p95": 0.95,
    "p99": 0.99,
    "p99.9": 0.999,
    "max": 1.0,
}
BOTH_SIDES: Final = {
    "min": 0.0,
    "p0.1": 0.001,
    "p1": 0.01,
    "p5": 0.05,
    "p10": 0.1,
    "p25": 0.25,
    "median": 0.5,
    "p75": 0.75,
    **{name: share for name, share in UPPER.items() if share >= 0.9},
}
_TOKENS: Final = "bootstrap by cluster"


def _of_tokens(
    needs: Needs,
    prepare: Callable[[Any, Any], LogitsComparison],
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
            measure=_tokens("kl"),
            prepare=prepare,
            summary="mean KL(reference || candidate)",
            noise=noise,
            interval=_TOKENS,
        ),
        Metric(
            name="reverse_kl",
            better="lower",
            unit="nats",
            needs=needs,
            worst=math.inf,
            measure=_tokens("reverse_kl"),
            prepare=prepare,
            summary="mean KL(candidate || reference)",
            noise=noise,
            interval=_TOKENS,
        ),
        Metric(
            name="js",
            better="lower",
            unit="nats",
            needs=needs,
            worst=math.inf,
            measure=_tokens("js"),
            prepare=prepare,
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
            measure=_tokens("top1_agreement"),
            prepare=prepare,
            summary="share of positions with the same most likely class",
            interval=_TOKENS,
        ),
        Metric(
            name="top5_agreement",
            better="higher",
            unit="1",
            needs=needs,
            worst=0.0,
            measure=_tokens("top5_agreement"),
            prepare=prepare,
            summary="mean share of the five most likely classes that stay among them",
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
        prepare=_compare,
        summary="||candidate - reference|| / ||reference||",
    ),
    Metric(
        name="sqnr_db",
        better="higher",
        unit="dB",
        needs="tensor",
        worst=-math.inf,
        measure=_tensor("sqnr_db"),
        prepare=_compare,
        summary="signal to quantization noise ratio",
    ),
    Metric(
        name="cosine",
        better="higher",
        unit="1",
        needs="tensor",
        worst=-1.0,
        measure=_tensor("cosine"),
        prepare=_compare,
        summary="cosine of the whole tensors",
    ),
    Metric(
        name="max_abs",
        better="lower",
        unit="",
        needs="tensor",
        worst=math.inf,
        measure=_tensor("max_abs"),
        prepare=_compare,
        summary="largest absolute error",
    ),
    Metric(
        name="max_rel",
        better="lower",
        unit="1",
        needs="tensor",
        worst=math.inf,
        measure=_tensor("max_rel"),
        prepare=_compare,
        summary="largest relative error",
    ),
    Metric(
        name="max_ulp",
        better="lower",
        unit="ulp",
        needs="tensor",
        worst=math.inf,
        measure=_tensor("max_ulp"),
        prepare=_compare,
        summary="largest error in units in the last place",
    ),
    Metric(
        name="mse",
        better="lower",
        unit="",
        needs="tensor",
        worst=math.inf,
        measure=_tensor("mse"),
        prepare=_compare,
        summary="mean squared error",
    ),
    Metric(
        name="bias",
        better="lower",
        unit="",
        needs="tensor",
        worst=math.inf,
        measure=_magnitude("bias"),
        prepare=_compare,
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
    *_of_tokens("logits", compare_logits, noise="noisy"),
    *_of_tokens("distribution", compare_probabilities, noise="deterministic"),
    Metric(
        name="delta_p",
        better="higher",
        unit="1",
        needs="labels",
        worst=-1.0,
        measure=_tokens("delta_p"),
        prepare=compare_logits,
        summary="mean change of the right token's probability",
        interval=_TOKENS,
    ),
    Metric(
        name="delta_p_rms",
        better="lower",
        unit="1",
        needs="labels",
        worst=math.inf,
        measure=_tokens("delta_p_rms"),
        prepare=compare_logits,
        summary="root mean square change of the right token's probability",
        interval=_TOKENS,
    ),
    Metric(
        name="perplexity_ratio",
        better="lower",
        unit="1",
        needs="labels",
        worst=math.inf,
        measure=_tokens("perplexity_ratio"),
        prepare=compare_logits,
        summary="candidate's over reference's perplexity of the right tokens",
        interval=_TOKENS,
    ),
)

#: Distances by token, and the quantiles of them that llama.cpp's own tool prints too.
ROW_METRICS: Final = (
    RowMetric(
        name="kl",
        better="lower",
        unit="nats",
        needs="logits",
        rows=lambda found: found.kl_rows,
        prepare=compare_logits,
        quantiles=UPPER,
        worst=math.inf,
        summary="KL(reference || candidate) by token",
    ),
    RowMetric(
        name="delta_p",
        better="higher",
        unit="1",
        needs="labels",
        rows=lambda found: found.delta_p_rows,
        prepare=compare_logits,
        quantiles=BOTH_SIDES,
        worst=-1.0,
        summary="change of the right token's probability, by token",
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
