"""How a backend behaves: the same twice, alone or in a batch, and when misused."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from harness.backends.protocol import Backend
from harness.compare.explained import Explained
from harness.conformance.probes import INPUT, NAME, OUTPUT, Probe, Shape
from harness.conformance.products import ALPHA
from harness.conformance.report import CheckReport
from harness.judge.statistics.quadratic import energy_factor
from harness.schemes.types import Scheme

Array = np.ndarray[Any, np.dtype[Any]]


def _layer(seed: int) -> tuple[Shape, Array]:
    rng = np.random.default_rng(seed)
    shape = Shape(rng.standard_normal((48, 96)), leading=2)
    return shape, rng.standard_normal((6, 5, 96)).astype(np.float32)


def _alike(a: Array, b: Array) -> bool:
    """Equal to the last bit: NaN is NaN, and -0 is not 0."""
    return a.shape == b.shape and a.tobytes() == b.tobytes()


def determinism(
    backend: Backend, scheme: Scheme, folder: Path, seed: int = 0
) -> CheckReport:
    """The same input, three times and in a second session, to the last bit."""
    shape, x = _layer(seed)
    amax = float(np.abs(x).max())
    with Probe(backend, scheme, shape, folder, amax=amax) as probe:
        declared = probe.arithmetic.determinism
        runs = [probe(x).copy() for _ in range(3)]
    with Probe(backend, scheme, shape, folder, amax=amax) as probe:
        runs.append(probe(x).copy())
    worst = max(float(np.abs(run - runs[0]).max()) for run in runs[1:])
    same = all(_alike(runs[0], run) for run in runs[1:])
    detail = "4 runs alike to the last bit" if same else f"runs differ by {worst:.3g}"
    if not same:
        detail += f", declared {declared}"
    return CheckReport(
        name="determinism", passed=same or declared != "exact", detail=detail, cases=4
    )


def invariance(
    backend: Backend, scheme: Scheme, folder: Path, seed: int = 0
) -> CheckReport:
    """A sample alone, in a batch, and beside padding of any size, gives the same.

    Kernels may sum in another order for another shape: what is admitted is two draws
    of the noise that theory gives.
    """
    tensor = scheme.activations
    if tensor is not None and tensor.dynamic and tensor.granularity == "tensor":
        return CheckReport(
            name="invariance", passed=None, detail="all samples share one scale"
        )
    shape, x = _layer(seed)
    amax = float(np.abs(x).max())
    padded = np.concatenate([x, np.full_like(x[:, :2], amax)], axis=1)
    with Probe(backend, scheme, shape, folder, amax=amax) as probe:
        whole = probe(x)
        alone = np.concatenate([probe(x[i : i + 1]) for i in range(len(x))])
        beside = probe(padded)[:, : x.shape[1]]
        explained = Explained(probe.scheme, probe.arithmetic)
        explained.add(probe.operator, x, whole)
        if scheme.outputs is not None:
            return _each_explained(probe, x, {"alone": alone, "beside": beside})
    limit = np.sqrt(2 * explained.result()[0].explained_sq) * energy_factor(ALPHA)
    found = {
        name: float(np.linalg.norm(other.astype(np.float64) - whole))
        for name, other in (("alone", alone), ("beside padding", beside))
    }
    worst = max(found, key=lambda name: found[name])
    if found[worst] == 0:
        detail = "alone and beside padding alike to the last bit"
    else:
        detail = f"{worst} differs by {found[worst]:.3g}, limit {limit:.3g}"
    return CheckReport(
        name="invariance",
        passed=bool(found[worst] <= limit),
        detail=detail,
        cases=len(x) + 2,
    )


def _each_explained(probe: Probe, x: Array, found: Mapping[str, Array]) -> CheckReport:
    """Rounded results, which may be a code apart: each is held against the oracle."""
    wrong = []
    for name, y in found.items():
        explained = Explained(probe.scheme, probe.arithmetic)
        explained.add(probe.operator, x, y)
        entry = explained.result()[0]
        limit = np.sqrt(entry.explained_sq) * energy_factor(ALPHA)
        if not np.sqrt(entry.residual_sq) <= limit:
            wrong.append(f"{name} {np.sqrt(entry.residual_sq):.3g}, limit {limit:.3g}")
    detail = "; ".join(wrong) or "alone and beside padding explained"
    return CheckReport(
        name="invariance", passed=not wrong, detail=detail, cases=len(x) + 2
    )


def ownership(
    backend: Backend, scheme: Scheme, folder: Path, seed: int = 0
) -> CheckReport:
    """Outputs stay what they were when the session runs again and is closed."""
    shape, x = _layer(seed)
    with Probe(backend, scheme, shape, folder, amax=float(np.abs(x).max())) as probe:
        before = x.copy()
        first = probe(x)
        kept = first.copy()
        probe(-2 * x)
        alive = _alike(first, kept)
        untouched = _alike(before, x)
    alive = alive and _alike(first, kept)
    detail = "outputs and inputs stay as they are"
    if not alive:
        detail = "an output changes when the session runs again or is closed: copy it"
    elif not untouched:
        detail = "the caller's input is overwritten"
    return CheckReport(
        name="ownership", passed=alive and untouched, detail=detail, cases=1
    )


def errors(
    backend: Backend, scheme: Scheme, folder: Path, seed: int = 0
) -> CheckReport:
    """Misuse raises; it never gives numbers, and closing twice is harmless."""
    shape, x = _layer(seed)
    silent = []
    with Probe(backend, scheme, shape, folder, amax=float(np.abs(x).max())) as probe:
        session = probe.session
        misuses = {
            "a missing input": lambda: session.run({}),
            "a wrong last axis": lambda: session.run({INPUT: x[..., :-1]}),
            "an unknown operator to capture": lambda: session.run(
                {INPUT: x}, capture=["no such operator"]
            )["no such operator"],
        }
        for what, misuse in misuses.items():
            if not _raises(misuse):
                silent.append(what)
        if OUTPUT not in session.run({INPUT: x}, capture=[NAME]):
            silent.append("a run after misuse")
    if _raises(session.close):
        silent.append("closing twice, which raises,")
    if not _raises(lambda: session.run({INPUT: x})):
        silent.append("a run after close")
    detail = f"{len(misuses) + 2} misuses raise"
    if silent:
        detail = f"{', '.join(silent)} should raise an error, and nothing else should"
    return CheckReport(
        name="errors", passed=not silent, detail=detail, cases=len(misuses) + 2
    )


def _raises(action: Any) -> bool:
    try:
        action()
    except Exception:  # noqa: BLE001 - whatever a backend raises is an answer
        return True
    return False


def proof(backend: Backend, scheme: Scheme, folder: Path, seed: int = 0) -> CheckReport:
    """The session shows what it holds: formats, scales, which inputs are rounded."""
    shape, x = _layer(seed)
    with Probe(backend, scheme, shape, folder, amax=float(np.abs(x).max())) as probe:
        show = getattr(probe.session, "artifact", None)
        if show is None:
            return CheckReport(
                name="proof", passed=None, detail="the session has no artifact()"
            )
        shown = show()
    wrong = []
    if scheme.weights is not None:
        found = shown.weights.get(NAME)
        if found is None or found.format != scheme.weights.format:
            held = "no low-precision weight" if found is None else found.stored_as
            wrong.append(f"it holds {held}, but should hold {scheme.weights.format}")
    rounded = NAME in shown.activations
    if rounded != (scheme.activations is not None):
        wrong.append(
            "the input is quantized, though the scheme leaves it alone"
            if rounded
            else "the input is not quantized"
        )
    stored = shown.weights[NAME].stored_as if NAME in shown.weights else "nothing"
    detail = "; ".join(wrong) or f"weights stored as {stored}"
    return CheckReport(name="proof", passed=not wrong, detail=detail, cases=1)
