"""Looking at a model with a backend's eyes, before anything is compiled."""

from __future__ import annotations

import dataclasses
import tempfile
from collections.abc import Sequence
from pathlib import Path

from harness.backends.protocol import Backend, Finding
from harness.backends.registry import Registry
from harness.errors import UnsupportedError
from harness.execution.isolation import Worker
from harness.execution.jobs import PreflightJob, PreflightRun
from harness.models.load import load_model
from harness.models.types import Model
from harness.schemes.types import Scheme


def preflight(
    registry: Registry,
    model: str,
    backend: str,
    schemes: Sequence[Scheme],
    *,
    plugins: Sequence[str] = (),
) -> PreflightRun:
    """Ask a backend about a model, in a worker.

    Args:
        registry: where the backend is looked up; the worker loads its own.
        model: a file, a folder, or `package.module:factory`.
        backend: its name, or `NAME@VARIANT`.
        schemes: asked for one by one.
        plugins: given to the worker.

    Raises:
        UsageError: there is no such backend, or no such model.
        BackendError: the worker died.
    """
    registry.backend(backend)
    path = Path(model).resolve()
    with tempfile.TemporaryDirectory() as folder:
        worker = Worker(
            log=Path(folder) / "worker.log",
            plugins=plugins,
            environment=registry.environment(backend),
        )
        with worker:
            job = PreflightJob(
                model=path.name if path.exists() else model,
                folder=str(path.parent if path.exists() else Path.cwd()),
                backend=backend,
                schemes=tuple(schemes),
            )
            found: PreflightRun = worker.run(job)
    return found


def look(job: PreflightJob, registry: Registry) -> PreflightRun:
    """The worker's part."""
    backend = registry.backend(job.backend)
    available = backend.probe()
    if not available.available:
        return PreflightRun(
            availability=available, operators=0, findings=None, schemes={}
        )
    model = load_model(job.model, Path(job.folder))
    findings = _findings(backend, model)
    if any(finding.kind == "missing" for finding in findings or ()):
        # What it cannot run it cannot run quantized, whatever the scheme.
        return PreflightRun(
            availability=available, operators=0, findings=findings, schemes={}
        )
    operators = model.operators()
    # A static scheme is calibrated when a golden is recorded: here any scale will do.
    amax = {operator.name: 1.0 for operator in operators}
    schemes = {
        scheme.name: backend.supports(
            model,
            dataclasses.replace(scheme, calibration=amax, output_calibration=amax),
        )
        for scheme in job.schemes
    }
    return PreflightRun(
        availability=available,
        operators=len(operators),
        findings=findings,
        schemes=schemes,
    )


def _findings(backend: Backend, model: Model) -> tuple[Finding, ...] | None:
    ask = getattr(backend, "preflight", None)
    if ask is None:
        return None
    try:
        return tuple(ask(model))
    except UnsupportedError as error:
        return (Finding("missing", "the model", 1, str(error)),)
