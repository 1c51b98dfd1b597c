"""What our steps cost by themselves: processor time and memory, without peers.

    python benchmarks/numerics/alone.py [--mib 64] [--rounds 5]

One thread, processor time instead of wall time: what a quiet core would take, whatever
else the machine does. A copy is `numpy.copyto` into new memory, which a result needs
too. Peak is the most memory that a call allocated (tracemalloc), in units of what it
returned. Medians go to alone.json.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
import tracemalloc
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import peers
import torch

from harness.numerics.arrays import as_numpy
from harness.numerics.compiled import set_threads

HERE = Path(__file__).parent


def copied(array: Any) -> Any:
    target = np.empty_like(array)
    np.copyto(target, array)
    return target


def processor(function: Callable[[], Any]) -> float:
    start = time.process_time()
    function()
    return time.process_time() - start


def size(result: Any) -> int:
    if not hasattr(result, "scales"):
        return int(result.nbytes)
    points = result.zero_points
    held = [result.codes, result.scales, *([] if points is None else [points])]
    return sum(int(each.nbytes) for each in held)


def peak(function: Callable[[], Any]) -> float:
    tracemalloc.start()
    result = function()
    most = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return most / size(result)


def one_row(row: peers.Row, x: Any, rounds: int) -> dict[str, Any]:
    array = as_numpy(x)[0]
    quantized, back = peers.ours(x, row)
    assert back is not None
    held = quantized()
    steps: dict[str, Callable[[], Any]] = {
        "copy": lambda: copied(array),
        "quantize": quantized,
        "dequantize": lambda: back(held),
    }
    times: dict[str, list[float]] = {name: [] for name in steps}
    for _ in range(rounds):
        for name, step in steps.items():
            times[name].append(processor(step))
    return {
        "row": row.name,
        "seconds": {k: round(statistics.median(v), 6) for k, v in times.items()},
        "peak": {
            name: round(peak(steps[name]), 3) for name in ("quantize", "dequantize")
        },
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--mib", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    set_threads(1)
    rows = []
    for dtype in (torch.float32, torch.bfloat16):
        torch.manual_seed(0)
        count = arguments.mib * 2**20 // dtype.itemsize
        x = torch.randn(count, dtype=torch.float32).to(dtype).reshape(-1, 4096)
        for row in peers.ROWS:
            made = one_row(row, x, arguments.rounds)
            rows.append(made | {"dtype": str(dtype).split(".")[1]})
            print(rows[-1], flush=True)
    result = {
        "date": datetime.now(UTC).date().isoformat(),
        "mib": arguments.mib,
        "rounds": arguments.rounds,
        "rows": rows,
    }
    (HERE / "alone.json").write_text(json.dumps(result, indent=1) + "\n", "utf-8")


if __name__ == "__main__":
    main()
