"""Messages between processes: what arrives is what was sent, without a copy."""

from __future__ import annotations

import mmap
import pickle
import socket
import threading
from multiprocessing.connection import Connection
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest

from harness.execution.messages import receive, send

LARGE = np.arange(1 << 20, dtype=np.float32)


@pytest.fixture
def ends():
    """Two connected ends."""
    pair = [Connection(end.detach()) for end in socket.socketpair()]
    yield pair
    for end in pair:
        if not end.closed:
            end.close()


def crossed(ends, message):
    """What arrives of a message that is sent by another thread."""
    sender = threading.Thread(target=send, args=(ends[0], message))
    sender.start()
    found = receive(ends[1])
    sender.join()
    return found


@pytest.mark.parametrize(
    "array",
    [
        LARGE,
        LARGE.reshape(1024, 1024).T,
        LARGE[::2],
        LARGE[:10].astype(np.float16),
        LARGE[:64].astype(ml_dtypes.float8_e4m3fn),
        np.zeros((0, 4), np.float32),
        np.full((), 3.5),
        np.array(["a", "bc"]),
    ],
    ids=["large", "turned", "strided", "small", "fp8", "empty", "scalar", "text"],
)
def test_an_array_arrives_as_it_was(ends, array):
    """Bits, shape and type; and it can be written to, as any array can."""
    found = crossed(ends, {"array": array, "beside": [1, "two"]})

    assert found["beside"] == [1, "two"]
    assert (found["array"].dtype, found["array"].shape) == (array.dtype, array.shape)
    assert found["array"].tobytes() == array.tobytes()
    assert found["array"].flags.writeable


def test_large_arrays_are_mapped_not_copied(ends):
    """Both lie in one mapping; small ones travel with the message."""
    large, other = crossed(ends, (LARGE, LARGE + 1))
    small = crossed(ends, LARGE[:10])

    assert isinstance(_owner(large), mmap.mmap)
    assert _owner(large) is _owner(other)
    assert not isinstance(_owner(small), mmap.mmap)
    np.testing.assert_array_equal(other, LARGE + 1)
    assert large.ctypes.data % 64 == other.ctypes.data % 64 == 0


def _owner(array):
    """What an array's bytes belong to."""
    base = array.base
    while isinstance(base, np.ndarray):
        base = base.base
    return base.obj if isinstance(base, memoryview) else base


def test_messages_keep_their_order(ends):
    """Whatever way each of them goes."""
    sent = [1, LARGE, "two", LARGE[:3], LARGE * 2]
    sender = threading.Thread(target=lambda: [send(ends[0], entry) for entry in sent])
    sender.start()
    found = [receive(ends[1]) for _ in sent]
    sender.join()

    for ours, theirs in zip(found, sent, strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_nothing_stays_open(ends):
    """A descriptor a message would end a night's run after a thousand of them."""
    before = len(list(Path("/proc/self/fd").iterdir()))
    for _ in range(5):
        assert crossed(ends, LARGE).size == LARGE.size

    assert len(list(Path("/proc/self/fd").iterdir())) == before


@pytest.mark.parametrize("header", [None, ([], False), ([1 << 20], True)])
def test_an_end_that_closed_is_an_end(ends, header):
    """Before a message, and in the middle of one."""
    if header is not None:
        ends[0].send_bytes(pickle.dumps(header))
    ends[0].close()

    with pytest.raises(EOFError):
        receive(ends[1])
