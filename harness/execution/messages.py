"""Messages between a worker and its parent: large arrays cross in shared memory.

A message is pickled (protocol 5) without its arrays. Those follow in the stream where
they are small; where they are large they are laid side by side in an anonymous file,
whose descriptor is handed over (SCM_RIGHTS, `man 7 unix`), and the receiver maps it:
they are copied once, into the file, and never read. Nothing has a name that could be
left behind, and the size of /dev/shm does not matter.

Both ends are this package, on this machine: what is unpickled here was pickled by us.
"""

from __future__ import annotations

import mmap
import os
import pickle
import socket
import sys
import tempfile
from collections.abc import Iterable, Sequence
from multiprocessing.connection import Connection
from typing import Any, Final

#: Bytes of arrays from which on mapping them is worth two system calls more.
_LARGE: Final = 1 << 20
#: Every array starts at a multiple of it: a cache line, and any vector's alignment.
_ALIGNMENT: Final = 64


def send(connection: Connection, message: Any) -> None:
    """Send one message; arrays that are not contiguous are copied on the way.

    Args:
        connection: one end of a Unix socket pair.
        message: anything that can be pickled.

    Raises:
        OSError: the other end is closed.
    """
    buffers: list[pickle.PickleBuffer] = []
    data = pickle.dumps(message, protocol=5, buffer_callback=buffers.append)
    views = [buffer.raw() for buffer in buffers]
    sizes = [view.nbytes for view in views]
    shared = sys.platform != "win32" and sum(sizes) >= _LARGE
    connection.send_bytes(pickle.dumps((sizes, shared)))
    connection.send_bytes(data)
    if shared:
        descriptor = _written(views, sizes)
        try:
            with _socket(connection) as end:
                socket.send_fds(end, [b"f"], [descriptor])
        finally:
            os.close(descriptor)
        return
    for view in views:
        connection.send_bytes(view)


def receive(connection: Connection) -> Any:
    """The next message; its arrays can be written to.

    Raises:
        EOFError: the other end is closed.
    """
    sizes, shared = pickle.loads(connection.recv_bytes())  # noqa: S301 - our own end
    data = connection.recv_bytes()
    buffers: Iterable[Any]
    if shared:
        buffers = _mapped(_descriptor(connection), sizes)
    else:
        buffers = [bytearray(connection.recv_bytes()) for _ in sizes]
    return pickle.loads(data, buffers=buffers)  # noqa: S301 - our own end


def _starts(sizes: Sequence[int]) -> tuple[list[int], int]:
    """Where each array begins, and where the last ends."""
    starts, end = [], 0
    for size in sizes:
        starts.append(end)
        end += -(-size // _ALIGNMENT) * _ALIGNMENT
    return starts, end


def _written(views: Sequence[memoryview], sizes: Sequence[int]) -> int:
    """A descriptor of an anonymous file that holds them."""
    starts, end = _starts(sizes)
    if sys.platform == "linux":
        descriptor = os.memfd_create("quantharness")
    else:
        with tempfile.TemporaryFile() as file:
            descriptor = os.dup(file.fileno())
    try:
        os.ftruncate(descriptor, end)
        for start, view in zip(starts, views, strict=True):
            done = 0
            while done < view.nbytes:
                done += os.pwrite(descriptor, view[done:], start + done)
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


def _mapped(descriptor: int, sizes: Sequence[int]) -> list[memoryview]:
    starts, end = _starts(sizes)
    try:
        view = memoryview(mmap.mmap(descriptor, end))
    finally:
        os.close(descriptor)
    return [view[i : i + n] for i, n in zip(starts, sizes, strict=True)]


def _descriptor(connection: Connection) -> int:
    with _socket(connection) as end:
        _, found, _, _ = socket.recv_fds(end, 1, 1)
    if not found:
        raise EOFError
    return int(found[0])


def _socket(connection: Connection) -> socket.socket:
    """The same end as a socket, to be closed on its own."""
    return socket.socket(fileno=os.dup(connection.fileno()))
