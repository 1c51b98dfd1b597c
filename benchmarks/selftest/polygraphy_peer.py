"""Polygraphy: `run` on the model's outputs and on every operator's output.

The same calls that its command makes: `OnnxrtRunner`, `Comparator.run` with the inputs
given, `CompareFunc.simple` against the FP32 model's results. One run is judged at all
tolerances; the seconds are those of the run and of one comparison.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx
from planted import Bench, Counter, Feed, Specimen
from polygraphy.backend.onnx import modify_outputs
from polygraphy.backend.onnxrt import OnnxrtRunner
from polygraphy.comparator import Comparator, CompareFunc
from polygraphy.logger import G_LOGGER

G_LOGGER.module_severity = G_LOGGER.CRITICAL
#: Its own statistics; `--check-error-stat` takes max, mean, median.
STATISTICS = {
    "max": "max_absdiff",
    "mean": "mean_absdiff",
    "median": "median_absdiff",
}
#: Its default, and what is usual for quantized models; atol = rtol, element by element.
TOLERANCES = (1e-5, 1e-2, 1e-1)


class Polygraphy:
    """What it needs of a suite: the FP32 model's results on the same inputs."""

    def __init__(self, bench: Bench) -> None:
        self.bench = bench
        self._right: dict[tuple[bool, int], Any] = {}

    def measure(self, specimen: Specimen, *, layers: bool) -> dict[str, Any]:
        """Statistic -> tensor -> the worst of all calls; how many runs.

        Args:
            specimen: the model.
            layers: every operator's output, on few calls (`--onnx-outputs`).
        """
        size = self.bench.size(specimen.control)
        feeds = self._feeds(size, layers=layers)
        if (layers, size) not in self._right:
            right, _ = self._run(self.bench.reference, feeds, "", layers=layers)
            self._right[layers, size] = right
        right = self._right[layers, size]
        start = time.perf_counter()
        results, runs = self._run(
            specimen.model, feeds, specimen.control, layers=layers
        )
        values = _statistics(results, right)
        seconds = time.perf_counter() - start
        if not layers:
            values |= _elementwise(results, right)
        return {"values": values, "runs": runs, "seconds": seconds}

    def _feeds(self, size: int, *, layers: bool) -> Sequence[Feed]:
        return self.bench.few[size] if layers else self.bench.feeds[size]

    def _run(
        self, model: bytes, feeds: Sequence[Feed], control: str, *, layers: bool
    ) -> tuple[Any, int]:
        counter = Counter()
        if layers:
            proto = onnx.load_from_string(model)
            shown = [value.name for value in proto.graph.output]
            wanted = [*self.bench.tensors.values(), *shown]
            proto = modify_outputs(proto, outputs=list(dict.fromkeys(wanted)))
            model = proto.SerializeToString()
        runner = OnnxrtRunner(lambda: counter.session(model, control))
        results = Comparator.run([runner], data_loader=list(feeds), warm_up=0)
        return next(iter(results.values())), counter.runs


def _statistics(results: Any, right: Any) -> dict[str, dict[str, float]]:
    """Statistic -> tensor -> the worst of all calls; not a number is infinitely far."""
    values: dict[str, dict[str, float]] = {name: {} for name in STATISTICS}
    compare = CompareFunc.simple(atol=1e-2, rtol=1e-2, check_error_stat="max")
    for found, wanted in zip(results, right, strict=True):
        for name, result in compare(found, wanted).items():
            for statistic, attribute in STATISTICS.items():
                value = getattr(result, attribute)
                value = np.inf if value is None or np.isnan(value) else value
                worst = values[statistic]
                worst[name] = max(worst.get(name, 0.0), float(value))
    return values


def _elementwise(results: Any, right: Any) -> dict[str, dict[str, float]]:
    """Tolerance -> output -> 1 where Polygraphy says that it fails."""
    values: dict[str, dict[str, float]] = {}
    for tolerance in TOLERANCES:
        failed = values.setdefault(f"elemwise {tolerance:g}", {})
        compare = CompareFunc.simple(
            atol=tolerance, rtol=tolerance, check_error_stat="elemwise"
        )
        for found, wanted in zip(results, right, strict=True):
            for name, result in compare(found, wanted).items():
                failed[name] = max(failed.get(name, 0.0), float(not result))
            # One that fails is enough (`--fail-fast`).
            if any(failed.values()):
                break
    return values
