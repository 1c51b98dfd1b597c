"""What it costs that a backend runs in a process of its own: arrays crossing to us.

    python benchmarks/overhead/transport.py [--megabytes 100] [--rounds 9]

A second process sends the same outputs (32 float32 arrays) by our messages and by
`multiprocessing.connection`, in turns; a plain copy of them here is the yardstick.
Printed are medians, in milliseconds, and their ratio to the copy. Our time ends once
every byte that arrived has been summed, as the other's and the copy's does.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import socket
import statistics
import time
from multiprocessing.connection import Connection
from pathlib import Path

import numpy as np

from harness.execution.messages import receive, send

COUNT = 32


def outputs(megabytes: int) -> dict[str, np.ndarray]:
    """What a run gives."""
    rng = np.random.default_rng(0)
    size = megabytes * 10**6 // 4 // COUNT
    return {f"o{i}": rng.random(size, dtype=np.float32) for i in range(COUNT)}


def serve(descriptor: int, megabytes: int) -> None:
    """Send them as often as asked, in the way asked for."""
    connection = Connection(descriptor)
    message = outputs(megabytes)
    while (way := connection.recv()) is not None:
        if way == "messages":
            send(connection, message)
        else:
            connection.send(message)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--megabytes", type=int, default=100)
    parser.add_argument("--rounds", type=int, default=9)
    options = parser.parse_args()
    ours, theirs = socket.socketpair()
    context = multiprocessing.get_context("fork")
    process = context.Process(
        target=serve, args=(theirs.fileno(), options.megabytes), daemon=True
    )
    process.start()
    connection = Connection(ours.detach())
    own = outputs(options.megabytes)
    times: dict[str, list[float]] = {"copy": [], "messages": [], "connection": []}
    for _ in range(options.rounds):
        for way, taken in times.items():
            start = time.perf_counter()
            if way == "copy":
                found = {name: array.copy() for name, array in own.items()}
            else:
                connection.send(way)
                found = receive(connection) if way == "messages" else connection.recv()
            total = sum(float(array.sum()) for array in found.values())
            taken.append(time.perf_counter() - start)
            del found
            assert total > 0
    connection.send(None)
    medians = {way: statistics.median(taken) * 1e3 for way, taken in times.items()}
    for way, milliseconds in medians.items():
        ratio = milliseconds / medians["copy"]
        print(f"{way:12} {milliseconds:8.1f} ms   {ratio:5.2f} x a copy")
    result = {"megabytes": options.megabytes, "milliseconds": medians}
    Path(__file__).with_name("transport.json").write_text(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
