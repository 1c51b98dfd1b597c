"""What each kind of output is measured by, case by case."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any, Final

import numpy as np

from harness.execution.jobs import Description, Outputs
from harness.golden.store import Golden
from harness.judge.evidence import MetricEvidence

Array = np.ndarray[Any, np.dtype[Any]]


def relative_l2(reference: Array, found: Array) -> float:
    """||found - reference|| / ||reference||; inf for a zero reference that moved."""
    error = float(np.linalg.norm((found - reference).ravel()))
    norm = float(np.linalg.norm(reference.ravel()))
    if norm == 0:
        return 0.0 if error == 0 else float("inf")
    return error / norm


def cosine_distance(reference: Array, found: Array) -> float:
    """1 - cosine; 0 for two zero vectors, 1 when only one is zero."""
    norms = float(np.linalg.norm(reference.ravel()) * np.linalg.norm(found.ravel()))
    if norms == 0:
        return 0.0 if not reference.any() and not found.any() else 1.0
    cosine = float(reference.ravel() @ found.ravel()) / norms
    return 1.0 - float(np.clip(cosine, -1.0, 1.0))


def kl(reference: Array, found: Array) -> float:
    """Mean over positions of KL(reference || found), in nats.

    Both are probabilities over the last axis on one support, the golden's most
    likely classes with the rest as one class; this is a lower bound of the KL over
    all classes (data processing inequality).
    """
    tiny = np.finfo(np.float32).tiny
    p = np.maximum(reference, 0)
    q = np.maximum(found, tiny)
    terms = np.where(p > 0, p * np.log(np.maximum(p, tiny) / q), 0.0)
    return float(terms.sum(axis=-1).mean())


def top1_flips(reference: Array, found: Array) -> float:
    """Share of positions whose most likely class is another one."""
    return float((reference.argmax(axis=-1) != found.argmax(axis=-1)).mean())


#: Output kind -> the metrics that mean something for it.
_BY_KIND: Final[Mapping[str, Mapping[str, Callable[[Array, Array], float]]]] = {
    "tensor": {"relative_l2": relative_l2},
    "embedding": {"cosine_distance": cosine_distance},
    "distribution": {"kl": kl, "top1_flips": top1_flips},
    "logits": {"relative_l2": relative_l2, "top1_flips": top1_flips},
}


def metrics(
    description: Description, golden: Golden, outputs: Outputs
) -> Iterator[MetricEvidence]:
    """`OUTPUT.METRIC` for every output that golden and run both have, whole."""
    cases = tuple(case for case in golden.outputs if case in outputs)
    for spec in description.outputs:
        for metric, function in _BY_KIND[spec.kind].items():
            values = [
                _value(function, golden, outputs, case, spec.name) for case in cases
            ]
            yield MetricEvidence(
                name=f"{spec.name}.{metric}", values=np.array(values), cases=cases
            )


def _value(
    function: Callable[[Array, Array], float],
    golden: Golden,
    outputs: Outputs,
    case: str,
    name: str,
) -> float:
    """The metric of one case; infinite where there is nothing to compare."""
    entry, full = golden.outputs[case].get(name), outputs[case].get(name)
    if entry is None or full is None or tuple(full.shape) != tuple(entry.shape):
        return float("inf")
    reference = np.asarray(entry.array, dtype=np.float64)
    found = np.asarray(entry.project(full), dtype=np.float64)
    if not np.isfinite(found).all():
        return float("inf")
    return function(reference, found)
