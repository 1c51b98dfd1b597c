"""All divergences of two blocks of logits, beside one read of them.

    python benchmarks/compare/logits_speed.py [--rows 2000] [--width 49152]

Prints a Markdown table: median wall and processor seconds of each, each also in times
of `numpy.sum` over both; processor time adds up the threads.
The compact golden is made once, as recording does it, and timed apart.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable

import numpy as np

from harness.compare.logits import compare_logits
from harness.golden.compact import compact


def median_seconds(function: Callable[[], object], repeats: int) -> tuple[float, float]:
    """Wall and processor seconds of a call, medians."""
    function()
    wall, processor = [], []
    for _ in range(repeats):
        start, before = time.perf_counter(), time.process_time()
        function()
        wall.append(time.perf_counter() - start)
        processor.append(time.process_time() - before)
    return statistics.median(wall), statistics.median(processor)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=2000)
    parser.add_argument("--width", type=int, default=49152)
    parser.add_argument("--repeats", type=int, default=3)
    arguments = parser.parse_args()
    rng = np.random.default_rng(0)
    shape = (arguments.rows, arguments.width)
    reference = 3 * rng.standard_normal(shape, dtype=np.float32)
    candidate = reference + 0.1 * rng.standard_normal(shape, dtype=np.float32)
    golden = compact(reference, kind="logits")
    subjects: dict[str, Callable[[], object]] = {
        "numpy.sum of both": lambda: (reference.sum(), candidate.sum()),
        "compare_logits, whole reference": lambda: compare_logits(reference, candidate),
        "compare_logits, compact golden": lambda: compare_logits(golden, candidate),
        "compact (recording)": lambda: compact(reference, kind="logits"),
    }
    print(f"{shape[0]} x {shape[1]} float32\n")
    print("| | wall, s | x read | processor, s | x read |")
    print("| --- | --- | --- | --- | --- |")
    base: tuple[float, float] | None = None
    for name, function in subjects.items():
        seconds = median_seconds(function, arguments.repeats)
        base = base or seconds
        cells = [
            f"{mine:.3f} | {mine / read:.1f}"
            for mine, read in zip(seconds, base, strict=True)
        ]
        print(f"| {name} | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
