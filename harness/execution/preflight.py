"""Looking at a model with a backend's eyes, before anything is compiled."""

from __future__ import annotations

import dataclasses
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from harness.backends.protocol import Backend, Finding
from harness.backends.registry import Registry
from harness.errors import BackendError, UnsupportedError
from harness.execution.isolation import Worker
from harness.execution.jobs import PreflightJob, PreflightRun
from harness.execution.trials import OnProgress, try_operators
from harness.models.load import load_model
from harness.models.types import Model
from harness.schemes.types import Scheme

#: What a finding is about that names no operator.
_WHOLE: Final = "the model"
#: Workers that may end at the same place.
_ATTEMPTS: Final = 3


def preflight(
    registry: Registry,
    model: str,
    backend: str,
    schemes: Sequence[Scheme],
    *,
    plugins: Sequence[str] = (),
    on_progress: OnProgress | None = None,
) -> PreflightRun:
    """Ask a backend about a model, in a worker.

    Args:
        registry: where the backend is looked up; the worker loads its own.
        model: a file, a folder, or `package.module:factory`.
        backend: its name, or `NAME@VARIANT`.
        schemes: asked for one by one.
        plugins: given to the worker.
        on_progress: called with operators tried and operators in all, by a backend
            that has to be tried.

    Raises:
        UsageError: there is no such backend, or no such model.
        BackendError: the worker died, and did not get further when it was made anew.
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
            return _answer(worker, job, on_progress)


def _answer(
    worker: Worker, job: PreflightJob, on_progress: OnProgress | None
) -> PreflightRun:
    """The worker's answer; one that dies under an operator is followed by another."""
    reached, here = 0, 0

    def progress(done: int, total: int) -> None:
        nonlocal here
        here = done
        if on_progress is not None:
            on_progress(done, total)

    stuck = 0
    while True:
        try:
            found: PreflightRun = worker.run(job, progress=progress)
        except BackendError:
            stuck = stuck + 1 if here == reached else 1
            reached = here
            if stuck > _ATTEMPTS:
                raise
        else:
            return found


def look(
    job: PreflightJob, registry: Registry, on_progress: OnProgress
) -> PreflightRun:
    """The worker's part."""
    backend = registry.backend(job.backend)
    available = backend.probe()
    if not available.available:
        return PreflightRun(
            availability=available, operators=0, findings=None, schemes={}
        )
    model = load_model(job.model, Path(job.folder))
    findings = _findings(backend, model, available.version, on_progress)
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


def _findings(
    backend: Backend, model: Model, version: str, on_progress: OnProgress
) -> tuple[Finding, ...] | None:
    """What a backend says; what it cannot say is tried, operator by operator."""
    ask = getattr(backend, "preflight", None)
    found: tuple[Finding, ...] | None = None
    if ask is not None:
        try:
            found = tuple(ask(model))
        except UnsupportedError as error:
            found = (Finding("missing", _WHOLE, 1, str(error)),)
        if not any(finding.what == _WHOLE for finding in found):
            return found
    try:
        graph = model.onnx()
    except UnsupportedError:
        return found
    tried = try_operators(backend, version, graph, on_progress)
    return found if tried is None else (*(found or ()), *tried)
