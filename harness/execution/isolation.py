"""A backend in a process of its own: its crash, hang or memory is a verdict.

The worker is a fresh interpreter (`python -m harness.execution.worker`), so nothing
of the caller's main module is run again and nothing is inherited but the paths. It
talks over a socket pair (`harness.execution.messages`); what it prints goes to a log
file.
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import threading
import time
import weakref
from collections.abc import Callable, Mapping, Sequence
from multiprocessing.connection import Connection
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

from harness.environments import VARIABLE, launch
from harness.errors import (
    BackendError,
    BackendMemoryError,
    BackendTimeout,
    HarnessError,
)
from harness.execution.jobs import Job
from harness.execution.messages import receive, send

#: What a worker says on its way: cases done, cases in all.
OnProgress = Callable[[int, int], None]
#: Seconds after which a worker's memory is looked at again, where it has a limit.
_PERIOD: Final = 0.1


class Stop:
    """Ends the workers of a run at once, from another thread than waits for them.

    Whoever waits gets `KeyboardInterrupt`, as does who asks one of them from then on: a
    target that was cut off has no verdict.
    """

    def __init__(self) -> None:
        self._now = threading.Event()
        self._workers: weakref.WeakSet[Worker] = weakref.WeakSet()
        self._lock = threading.Lock()

    def add(self, worker: Worker) -> None:
        """Have a worker ended with the others."""
        with self._lock:
            self._workers.add(worker)

    def now(self) -> None:
        """End them."""
        self._now.set()
        with self._lock:
            for worker in self._workers:
                worker.interrupt()

    def check(self) -> None:
        """Go no further once it is over.

        Raises:
            KeyboardInterrupt: it is.
        """
        if self._now.is_set():
            raise KeyboardInterrupt


class Worker:
    """One worker process; used for one job after another.

    Args:
        log: where what it prints goes.
        plugins: that it loads.
        threads: of its engines; None: as many as they like.
        environment: variables of the process beside ours: a backend's variant.
        memory: most bytes that it may have resident; None: no limit.
        stop: ends it from another thread.
    """

    def __init__(
        self,
        *,
        log: Path,
        plugins: Sequence[str] = (),
        threads: int | None = None,
        environment: Mapping[str, str] | None = None,
        memory: float | None = None,
        stop: Stop | None = None,
    ) -> None:
        self.log = log
        self.plugins = tuple(plugins)
        self.threads = threads
        self.environment = dict(environment or {})
        self.memory = memory
        self.stop = stop or Stop()
        self.stop.add(self)
        self._process: subprocess.Popen[bytes] | None = None
        self._connection: Connection | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def run(
        self,
        job: Job,
        *,
        timeout: float | None = None,
        progress: OnProgress | None = None,
    ) -> Any:
        """Send a job, wait for its result.

        Raises:
            BackendTimeout: no result within `timeout` seconds; the worker is killed.
            BackendMemoryError: it took more memory than it may; the same.
            BackendError: the worker died; says by which signal, and its last words.
            HarnessError: what the job itself raised on purpose.
            KeyboardInterrupt: it was stopped.
        """
        self.stop.check()
        connection = self._start()
        deadline = None if timeout is None else time.monotonic() + timeout
        try:
            # Stopped while it was being started.
            self.stop.check()
            send(connection, ("job", job))
            while True:
                if not self._answers(connection, deadline):
                    self.kill()
                    raise BackendTimeout(
                        f"no answer within {timeout:g} s (--timeout); killed"
                    )
                kind, value = receive(connection)
                if kind == "progress" and progress is not None:
                    progress(*value)
                elif kind == "result":
                    return value
                elif kind == "raised":
                    raise value
                elif kind == "crashed":
                    raise BackendError(f"{value}{self._last_words()}")
        except (EOFError, ConnectionResetError, BrokenPipeError):
            self.stop.check()
            raise BackendError(self._obituary()) from None
        except BaseException as error:
            # Interrupted, or out of time: the worker's state is unknown.
            if not isinstance(error, HarnessError):
                self.kill()
            raise

    def _answers(self, connection: Connection, deadline: float | None) -> bool:
        """Wait until there is something to receive; False: not before the deadline."""
        while True:
            self._check_memory()
            left = None if deadline is None else deadline - time.monotonic()
            if left is not None and left <= 0:
                return False
            if self.memory is None:
                return connection.poll(left)
            if connection.poll(_PERIOD if left is None else min(_PERIOD, left)):
                return True

    def _check_memory(self) -> None:
        """Kill the worker if it has more than it may.

        Raises:
            BackendMemoryError: it had.
        """
        if self.memory is None:
            return
        import psutil

        assert self._process is not None  # sanity check
        try:
            taken = psutil.Process(self._process.pid).memory_info().rss
        except psutil.Error:
            # It has ended: what is received next says how.
            return
        if taken > self.memory:
            self.kill()
            raise BackendMemoryError(
                f"the backend's process had {taken / 1e9:.2f} GB in memory, but should "
                f"have at most {self.memory / 1e9:g} GB (--memory); killed"
            )

    def _start(self) -> Connection:
        if self._process is not None and self._process.poll() is None:
            assert self._connection is not None  # sanity check
            return self._connection
        self.close()
        own = self.environment.get(VARIABLE)
        module = "harness.execution.worker"
        command = launch(own, module) if own else [sys.executable, "-m", module]
        ours, theirs = socket.socketpair()
        environment = dict(os.environ)
        environment["PYTHONPATH"] = os.pathsep.join(p for p in sys.path if p)
        # Threads that spin while they wait take the cores of the other workers: small
        # layers ran six times as long beside another busy process.
        environment.setdefault("OMP_WAIT_POLICY", "passive")
        # NumPy's threads spin between the oracle's products: with two of them the same
        # products took four times the processor time of one.
        environment.setdefault("OPENBLAS_NUM_THREADS", "1")
        if self.threads is not None:
            environment["QUANTHARNESS_THREADS"] = str(self.threads)
            environment["OMP_NUM_THREADS"] = str(self.threads)
        environment.update(self.environment)
        self.log.parent.mkdir(parents=True, exist_ok=True)
        with self.log.open("ab") as log, theirs:
            self._process = subprocess.Popen(  # noqa: S603 - our own interpreter
                [*command, str(theirs.fileno()), *self.plugins],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                pass_fds=[theirs.fileno()],
                env=environment,
                # Ctrl-C is ours to answer: a worker that it killed would look as if
                # its backend had died.
                start_new_session=True,
            )
        self._connection = Connection(ours.detach())
        return self._connection

    def _obituary(self) -> str:
        """How the worker died, and its last words."""
        assert self._process is not None  # sanity check
        code = self._process.wait()
        self.close()
        if code < 0:
            name = signal.Signals(-code).name
            likely = " (out of memory?)" if name == "SIGKILL" else ""
            how = f"the backend's process was killed by {name}{likely}"
        else:
            how = f"the backend's process ended with status {code}"
        return how + self._last_words()

    def _last_words(self) -> str:
        """The last line that the worker printed, and where the rest is."""
        try:
            with self.log.open("rb") as file:
                file.seek(max(0, self.log.stat().st_size - 4096))
                lines = file.read().decode("utf-8", "replace").strip().splitlines()
        except OSError:
            return ""
        return f"; its last line: {lines[-1].strip()!r} ({self.log})" if lines else ""

    def interrupt(self) -> None:
        """End the process, from another thread than the one that waits for it."""
        process = self._process
        if process is not None and process.poll() is None:
            process.kill()

    def kill(self) -> None:
        """End the process now."""
        if self._process is not None and self._process.poll() is None:
            self._process.kill()
        self.close()

    def close(self) -> None:
        """Let the process end; it does when its connection closes."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None
        if self._process is not None:
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(timeout=10)
            if self._process.poll() is None:
                self._process.kill()
                self._process.wait()
            self._process = None
