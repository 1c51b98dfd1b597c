"""A worker that is ended from another thread than the one that waits for it."""

import threading
import time

import pytest

from harness.errors import BackendError
from harness.execution.isolation import Stop, Worker
from harness.execution.jobs import ConformanceJob
from harness.schemes.catalogue import SCHEMES

JOB = ConformanceJob(backend="nowhere", scheme=SCHEMES["int8"])


@pytest.fixture
def asleep(tmp_path):
    """A plugin that says so, and keeps its worker busy."""
    plugin = tmp_path / "asleep.py"
    plugin.write_text(
        "import pathlib, time\n"
        "def register(_):\n"
        "    pathlib.Path(__file__).with_name('started').touch()\n"
        "    time.sleep(600)\n"
    )
    return plugin


def ask(worker, raised):
    """Ask in this thread; note what comes of it."""
    try:
        worker.run(JOB)
    except BaseException as error:  # noqa: BLE001 - the interruption is one
        raised.append(error)


@pytest.mark.parametrize("end", ["stop", "death"])
def test_who_waits_is_told_how_it_ended(tmp_path, asleep, end):
    """Stopped: interrupted, no verdict. Killed by anybody else: its backend died."""
    stop, raised = Stop(), []
    worker = Worker(log=tmp_path / "log", plugins=[str(asleep)], stop=stop)
    with worker:
        thread = threading.Thread(target=ask, args=(worker, raised))
        thread.start()
        while not (tmp_path / "started").exists():
            time.sleep(0.05)
        if end == "stop":
            stop.now()
        else:
            worker.interrupt()
        thread.join(timeout=30)

    assert not thread.is_alive()
    assert [KeyboardInterrupt if end == "stop" else BackendError] == [
        type(error) for error in raised
    ]


def test_none_is_started_once_it_is_over(tmp_path):
    """Not even by a thread that had another target to go."""
    stop = Stop()
    worker = Worker(log=tmp_path / "log", stop=stop)
    stop.now()

    with pytest.raises(KeyboardInterrupt):
        worker.run(JOB)
    assert not (tmp_path / "log").exists()
