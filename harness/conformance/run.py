"""All checks of one scheme on one backend."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final

import numpy as np

from harness.backends.protocol import Arithmetic, Backend
from harness.conformance.chain import chain
from harness.conformance.conduct import (
    determinism,
    errors,
    invariance,
    ownership,
    proof,
)
from harness.conformance.order import order
from harness.conformance.probes import Probe, Shape, write_model
from harness.conformance.products import accumulation, operators
from harness.conformance.report import CheckReport, Level, SchemeReport
from harness.conformance.rounding import cast, decode, saturate, special
from harness.errors import UnsupportedError
from harness.schemes.types import Scheme

#: Name -> check; each gives its report for a backend and a scheme.
CHECKS: Final[Mapping[str, Callable[[Backend, Scheme, Path], CheckReport]]] = {
    "proof": proof,
    "decode": decode,
    "cast": cast,
    "saturate": saturate,
    "special": special,
    "operators": operators,
    "accumulation": accumulation,
    "chain": chain,
    "determinism": determinism,
    "invariance": invariance,
    "ownership": ownership,
    "errors": errors,
    "order": order,
}


def examine(backend: Backend, scheme: Scheme) -> SchemeReport:
    """Run every check; what a check raises is its failure, never the end."""
    available = backend.probe()
    if not available.available:
        return _report(backend, scheme, "unsupported", available.reason)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        try:
            arithmetic = _declared(backend, scheme, folder)
        except UnsupportedError as error:
            return _report(
                backend, scheme, "unsupported", str(error), version=available.version
            )
        checks = tuple(
            _one(check, name, backend, scheme, folder) for name, check in CHECKS.items()
        )
    failed = [check for check in checks if check.passed is False]
    level: Level = "native" if arithmetic.execution == "native" else "emulated"
    return SchemeReport(
        backend=backend.name,
        version=available.version,
        scheme=scheme.name,
        level="deviates" if failed else level,
        reason=f"{failed[0].name}: {failed[0].detail}" if failed else "",
        execution=f"{arithmetic.execution}: {arithmetic.detail}",
        checks=checks,
    )


def _declared(backend: Backend, scheme: Scheme, folder: Path) -> Arithmetic:
    """What a loaded session declares.

    Raises:
        UnsupportedError: the backend says that it cannot run a plain linear layer.
    """
    shape = Shape(np.eye(64))
    support = backend.supports(write_model(shape, folder), scheme)
    if not support.supported:
        raise UnsupportedError(support.reason)
    with Probe(backend, scheme, shape, folder) as probe:
        # Some engines refuse what they cannot run only when it runs.
        probe(np.ones((2, 64), np.float32))
        return probe.arithmetic


def _one(
    check: Callable[[Backend, Scheme, Path], CheckReport],
    name: str,
    backend: Backend,
    scheme: Scheme,
    folder: Path,
) -> CheckReport:
    try:
        return check(backend, scheme, folder)
    except Exception as error:  # noqa: BLE001 - a backend may raise anything
        text = " ".join(str(error).split())[:300]
        return CheckReport(
            name=name, passed=False, detail=f"raised {type(error).__name__}: {text}"
        )


def _report(
    backend: Backend, scheme: Scheme, level: Level, reason: str, *, version: str = ""
) -> SchemeReport:
    return SchemeReport(
        backend=backend.name,
        version=version,
        scheme=scheme.name,
        level=level,
        reason=reason,
    )
