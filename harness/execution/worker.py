"""The worker process: `python -m harness.execution.worker FD [PLUGIN...]`.

Keeps the models it has loaded, so that the targets of a suite share one load.
"""

from __future__ import annotations

import sys
import traceback
from multiprocessing.connection import Connection

from harness.backends.registry import Registry, load_registry
from harness.conformance import examine
from harness.errors import HarnessError
from harness.execution.bisect import run_bisection
from harness.execution.calibrated import run_quantizer
from harness.execution.draws import run_draws
from harness.execution.hunt import run_hunt
from harness.execution.jobs import (
    BisectJob,
    ConformanceJob,
    DescribeJob,
    DrawsJob,
    HuntJob,
    Job,
    OracleJob,
    PreflightJob,
    QuantizeJob,
    ReferenceJob,
    ReproJob,
    Result,
    TargetJob,
)
from harness.execution.loaded import Loaded
from harness.execution.messages import receive, send
from harness.execution.oracle_run import run_oracle
from harness.execution.preflight import look
from harness.execution.reference_run import run_reference
from harness.execution.repro_run import run_repro
from harness.execution.target_run import run_target
from harness.processes import die_with_parent


def main(arguments: list[str]) -> None:
    """Serve jobs until the parent closes the connection."""
    die_with_parent()
    connection = Connection(int(arguments[0]))
    registry: Registry | None = None
    loaded = Loaded()
    while True:
        try:
            _, job = receive(connection)
        except (EOFError, OSError):
            return
        try:
            if registry is None:
                registry = load_registry(arguments[1:])
            result = _work(job, registry, loaded, connection)
        except HarnessError as error:
            send(connection, ("raised", error))
        except Exception as error:  # noqa: BLE001 - a backend may raise anything
            traceback.print_exc()
            sys.stderr.flush()
            text = " ".join(str(error).split())[:600]
            send(connection, ("crashed", f"{type(error).__name__}: {text}"))
        else:
            send(connection, ("result", result))


def _work(
    job: Job, registry: Registry, loaded: Loaded, connection: Connection
) -> Result:
    def progress(done: int, total: int) -> None:
        send(connection, ("progress", (done, total)))

    if isinstance(job, DescribeJob):
        return loaded.describe(job.suite)
    if isinstance(job, QuantizeJob):
        return run_quantizer(job, registry, loaded)
    if isinstance(job, DrawsJob):
        return run_draws(job, registry, loaded, progress)
    if isinstance(job, OracleJob):
        return run_oracle(job, registry, loaded)
    if isinstance(job, HuntJob):
        return run_hunt(job, registry, loaded)
    if isinstance(job, ReferenceJob):
        return run_reference(job, registry, loaded, progress)
    if isinstance(job, ReproJob):
        return run_repro(job, registry, loaded)
    if isinstance(job, BisectJob):
        return run_bisection(job, registry, loaded)
    if isinstance(job, ConformanceJob):
        return examine(registry.backend(job.backend), job.scheme)
    if isinstance(job, PreflightJob):
        return look(job, registry, progress)
    assert isinstance(job, TargetJob)  # sanity check
    return run_target(job, registry, loaded, progress)


if __name__ == "__main__":
    main(sys.argv[1:])
