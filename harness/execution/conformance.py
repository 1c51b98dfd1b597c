"""Conformance of a backend in a worker of its own: a crash is a level, not the end."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

from harness.backends.registry import Registry
from harness.conformance import SchemeReport
from harness.errors import BackendError, UsageError
from harness.execution.isolation import Worker
from harness.execution.jobs import ConformanceJob
from harness.schemes.types import Scheme


def conform(
    registry: Registry,
    backend: str,
    schemes: Sequence[Scheme],
    *,
    plugins: Sequence[str] = (),
    timeout: float | None = None,
    memory: float | None = None,
    on_done: Callable[[SchemeReport], None] | None = None,
) -> tuple[SchemeReport, ...]:
    """Examine every scheme, one after another.

    Args:
        registry: where the backend is looked up; the worker loads its own.
        backend: its name, or `NAME@VARIANT`.
        schemes: what to examine.
        plugins: given to the worker.
        timeout: seconds for one scheme; None: no limit.
        memory: gigabytes (10^9 bytes) that the process may have resident; None: no
            limit.
        on_done: called with each report as it comes.

    Raises:
        UsageError: there is no such backend or variant, or a limit of 0 or less.
        PluginError: a plugin does not load.
    """
    registry.backend(backend)
    for name, limit in (("timeout", timeout), ("memory", memory)):
        if limit is not None and not limit > 0:
            raise UsageError(f"{name}={limit}, but should be more than 0")
    found = []
    with tempfile.TemporaryDirectory() as folder:
        worker = Worker(
            log=Path(folder) / "worker.log",
            plugins=plugins,
            environment=registry.environment(backend),
            memory=None if memory is None else memory * 1e9,
        )
        with worker:
            for scheme in schemes:
                job = ConformanceJob(backend=backend, scheme=scheme)
                try:
                    report: SchemeReport = worker.run(job, timeout=timeout)
                except BackendError as error:
                    report = SchemeReport(
                        backend=backend,
                        version="",
                        scheme=scheme.name,
                        level="error",
                        # Its log goes with the folder.
                        reason=str(error).partition(" (/")[0],
                    )
                found.append(report)
                if on_done is not None:
                    on_done(report)
    return tuple(found)


def conforms(reports: Sequence[SchemeReport]) -> bool:
    """Whether something was examined and nothing of it deviates."""
    levels = {report.level for report in reports}
    return bool(levels & {"native", "emulated"}) and not levels & {"deviates", "error"}
