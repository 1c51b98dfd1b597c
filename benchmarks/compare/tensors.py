"""Our comparison beside others', on the same two tensors in one run.

    python benchmarks/compare/tensors.py [--mib 256] [--repeats 5] [--only plain]

Prints a Markdown table: median wall and processor seconds, each also in times of a
plain read of the same bytes; processor time, all threads together, is what to trust
where other work shares the cores. Peers that are not installed are said to be missing.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from typing import Any

import numpy as np

from harness.compare import compare


def plain_read(a: Any, b: Any) -> None:
    """The same bytes, read once: as 32-bit integers, so every dtype is as fast."""
    a.view(np.int32).sum(dtype=np.int32)
    b.view(np.int32).sum(dtype=np.int32)


def plain_sum(a: Any, b: Any) -> None:
    a.sum(dtype=a.dtype)
    b.sum(dtype=b.dtype)


def allclose(a: Any, b: Any) -> None:
    np.testing.assert_allclose(b, a, rtol=1, atol=1e3)


def assert_close(a: Any, b: Any) -> None:
    import torch

    torch.testing.assert_close(
        torch.from_numpy(b), torch.from_numpy(a), rtol=1, atol=1e3
    )


def torchao_error(a: Any, b: Any) -> None:
    import torch
    from torchao.quantization.utils import compute_error

    compute_error(torch.from_numpy(a), torch.from_numpy(b))


def polygraphy(a: Any, b: Any) -> None:
    from polygraphy.comparator import CompareFunc
    from polygraphy.comparator.struct import IterationResult
    from polygraphy.logger import G_LOGGER

    G_LOGGER.module_severity = G_LOGGER.CRITICAL
    first, second = (
        IterationResult(outputs={"y": x}, runner_name=n)
        for x, n in ((a, "ref"), (b, "other"))
    )
    CompareFunc.simple(rtol=1, atol=1e3)(first, second)


SUBJECTS: dict[str, tuple[Callable[[Any, Any], object], str]] = {
    "plain read (integer sum)": (plain_read, "none"),
    "numpy.sum": (plain_sum, "none"),
    "harness.compare": (compare, "all of ours"),
    "numpy assert_allclose": (allclose, "one verdict"),
    "torch assert_close": (assert_close, "one verdict"),
    "torchao compute_error": (torchao_error, "SQNR"),
    "Polygraphy CompareFunc.simple": (polygraphy, "abs, rel, statistics"),
}


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
    parser.add_argument("--mib", type=int, default=256)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--only", default="", help="words of the subjects' names")
    arguments = parser.parse_args()
    rng = np.random.default_rng(0)
    for dtype in (np.float32, np.float16):
        count = arguments.mib * 2**20 // np.dtype(dtype).itemsize
        a = rng.standard_normal(count, dtype=np.float32)
        b = a + 1e-2 * rng.standard_normal(count, dtype=np.float32)
        a, b = (x.astype(dtype).reshape(-1, 8192) for x in (a, b))
        print(f"\n{np.dtype(dtype).name}, 2 x {arguments.mib} MiB\n")
        print("| | measures | wall, s | x read | processor, s | x read |")
        print("| --- | --- | --- | --- | --- | --- |")
        base: tuple[float, float] | None = None
        for name, (function, measures) in SUBJECTS.items():
            if not any(word in name for word in arguments.only.split(",")):
                continue
            try:
                seconds = median_seconds(
                    lambda f=function, x=a, y=b: f(x, y), arguments.repeats
                )
            except ImportError as error:
                print(f"| {name} | {measures} | missing: {error} | | | |")
                continue
            base = base or seconds
            cells = [
                f"{mine:.3f} | {mine / read:.1f}"
                for mine, read in zip(seconds, base, strict=True)
            ]
            print(f"| {name} | {measures} | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
