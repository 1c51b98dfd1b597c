"""What quantizing and dequantizing costs: ours beside other libraries, in one run.

    python benchmarks/numerics/run.py [--mib 64] [--rounds 5] [--only mxfp4]

Every row is a format with a granularity. A round calls every subject once, ours first,
so that what else the machine does hits all alike; the result is the median of the
rounds and goes to result.json. GB/s counts the bytes of the unquantized tensor. A
`copy` is `numpy.copyto` of these bytes into memory that is there already. A peer that
only quantizes and takes back in one step is compared with both of our steps together.
What ours cost without peers, and in memory, is measured by alone.py.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import platform
import statistics
import sys
import time
import warnings
from collections.abc import Callable
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import peers
import torch

from harness.numerics.arrays import as_numpy
from harness.numerics.compiled import set_threads

HERE = Path(__file__).parent
LIBRARIES = {
    "torch": "torch",
    "ml_dtypes": "ml_dtypes",
    "torchao": "torchao",
    "modelopt": "nvidia-modelopt",
    "compressed-tensors": "compressed-tensors",
    "quark": "amd-quark",
    "numba": "numba",
    "numpy": "numpy",
}
Times = dict[str, list[tuple[float, float]]]


def timed(function: Callable[[], Any]) -> tuple[float, float]:
    """Wall and processor seconds, the latter of all threads together."""
    start, before = time.perf_counter(), time.process_time()
    function()
    return time.perf_counter() - start, time.process_time() - before


def medians(times: Times, which: int) -> dict[str, float]:
    return {
        name: round(statistics.median(pair[which] for pair in taken), 6)
        for name, taken in times.items()
    }


def one_row(row: peers.Row, x: Any, rounds: int) -> dict[str, Any]:
    """Median and least seconds of every subject of a row; values equal to ours."""
    array = as_numpy(x)[0]
    target = np.empty_like(array)
    quantized, back = peers.ours(x, row)
    assert back is not None
    held = quantized()
    values = back(held)
    subjects = {}
    agree = {}
    for name, make in row.peers.items():
        first, second = make(x)
        kept = first()
        made = second(kept) if second else kept
        made = torch.as_tensor(np.asarray(made)) if row.options is None else made
        agree[name] = round(float((made.float() == values).float().mean()), 6)
        subjects[name] = (first, second, kept)
        del made
    times: Times = {"copy": [], "ours quantize": [], "ours dequantize": []}
    for _ in range(rounds):
        times["copy"].append(timed(lambda: np.copyto(target, array)))
        times["ours quantize"].append(timed(quantized))
        times["ours dequantize"].append(timed(lambda: back(held)))
        for name, (first, second, kept) in subjects.items():
            step = "quantize" if second else "both"
            times.setdefault(f"{name} {step}", []).append(timed(first))
            if second:
                taken = timed(lambda s=second, k=kept: s(k))
                times.setdefault(f"{name} dequantize", []).append(taken)
    return {
        "row": row.name,
        "blocks": row.blocks,
        "seconds": medians(times, 0),
        "processor": medians(times, 1),
        "equal_values": agree,
    }


def put(rows: list[dict[str, Any]], made: dict[str, Any]) -> None:
    """Add a row, in the place of the one that it renews."""
    key = ("row", "dtype", "threads")
    for place, row in enumerate(rows):
        if all(row[k] == made[k] for k in key):
            rows[place] = made
            return
    rows.append(made)


def environment() -> dict[str, Any]:
    lines = Path("/proc/cpuinfo").read_text("utf-8").splitlines()
    model = next(line.split(":")[1].strip() for line in lines if "model name" in line)
    return {
        "cpu": model,
        "cores": len(os.sched_getaffinity(0)),
        "python": platform.python_version(),
        "versions": {name: metadata.version(d) for name, d in LIBRARIES.items()},
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--mib", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--only", default="", help="part of the rows' names")
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--renew", action="store_true", help="keep the other rows")
    parser.add_argument("--out", type=Path, default=HERE / "result.json")
    arguments = parser.parse_args()
    warnings.simplefilter("ignore")
    logging.disable(logging.WARNING)
    result: dict[str, Any] = {
        "date": datetime.now(UTC).date().isoformat(),
        "mib": arguments.mib,
        "rounds": arguments.rounds,
        "environment": environment(),
        "rows": [],
    }
    if arguments.renew:
        result["rows"] = json.loads(arguments.out.read_text("utf-8"))["rows"]
    for dtype in (torch.float32, torch.bfloat16):
        torch.manual_seed(0)
        count = arguments.mib * 2**20 // dtype.itemsize
        x = torch.randn(count, dtype=torch.float32).to(dtype).reshape(-1, 4096)
        for threads in arguments.threads:
            torch.set_num_threads(threads)
            set_threads(threads)
            for row in peers.ROWS:
                if arguments.only not in row.name:
                    continue
                made = one_row(row, x, arguments.rounds)
                made |= {"dtype": str(dtype).split(".")[1], "threads": threads}
                put(result["rows"], made)
                print(made["dtype"], threads, row.name, made["seconds"], flush=True)
                arguments.out.write_text(json.dumps(result, indent=1) + "\n", "utf-8")
    sys.stdout.flush()


if __name__ == "__main__":
    main()
