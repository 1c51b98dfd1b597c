"""The workers of a suite in a run, one a backend, and the oracles that they compute."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, Self

from harness.errors import BackendError, MissingExtraError, UnsupportedError
from harness.execution.isolation import Worker
from harness.execution.jobs import OracleJob, OracleRun, SuiteRef
from harness.schemes.types import Scheme

#: Backends that can compute the whole-model oracle, in order of preference.
_ORACLE_BACKENDS: Final = ("torch", "onnxruntime")


class Workers:
    """The worker processes of one suite, made when first asked for.

    Args:
        suite: its name, in the names of logs.
        make: a worker of a backend, which logs to a file.
        timeout: seconds that an oracle may take; None: no limit.
        on_message: told why there is no oracle, where there is none.
    """

    def __init__(
        self,
        suite: str,
        make: Callable[[str, str], Worker],
        *,
        timeout: float | None,
        on_message: Callable[[str], None],
    ) -> None:
        self._suite = suite
        self._make = make
        self._timeout = timeout
        self._on_message = on_message
        self._workers: dict[str, Worker] = {}
        self._oracles: dict[str, OracleRun | None] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for backend in list(self._workers):
            self.close(backend)

    def close(self, backend: str) -> None:
        """End a backend's worker; it is made anew when it is asked for again."""
        worker = self._workers.pop(backend, None)
        if worker is not None:
            worker.close()

    def get(self, backend: str) -> Worker:
        """The worker that runs this backend."""
        if backend not in self._workers:
            self._workers[backend] = self._make(backend, f"{self._suite}-{backend}.log")
        return self._workers[backend]

    def oracle(self, ref: SuiteRef, scheme: Scheme) -> OracleRun | None:
        """The whole-model oracle of a scheme; None when nothing can compute it."""
        if scheme.name not in self._oracles:
            self._oracles[scheme.name] = self._compute(ref, scheme)
        return self._oracles[scheme.name]

    def _compute(self, ref: SuiteRef, scheme: Scheme) -> OracleRun | None:
        for backend in _ORACLE_BACKENDS:
            # Asked in the worker, not probed here: torch takes seconds to import.
            job = OracleJob(suite=ref, backend=backend, scheme=scheme)
            try:
                result: OracleRun = self.get(backend).run(job, timeout=self._timeout)
            except MissingExtraError:
                continue
            except (BackendError, UnsupportedError) as error:
                self._on_message(
                    f"{ref.name}: no oracle for {scheme.name} on {backend}: {error}"
                )
            else:
                return result
        return None
