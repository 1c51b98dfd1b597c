"""Polygraphy's command line: `run` once, and `debug reduce` to name the operator.

`debug reduce --mode=bisect` cuts the failing graph down and runs the check command on
every part. As its guide has it, each part is fed the FP32 model's activations and
compared with them, here within what the clean quantized model needs at every tensor:
run as a whole, and cut at every operator, as the parts will be.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from planted import Bench, Counter, Feed, Specimen
from polygraphy import constants
from polygraphy.backend.onnx import modify_outputs
from polygraphy.backend.onnxrt import OnnxrtRunner
from polygraphy.comparator import Comparator, RunResults
from polygraphy.json import save_json

COMMAND = Path(sys.executable).with_name("polygraphy")
#: A tensor that the clean model gives exactly may still differ in the last bits.
SLACK = 1e-6
_FED = "fed by the benchmark"


def _everything(model: bytes, feed: Feed) -> Any:
    """All floating-point tensors of a model: RunResults of one call."""
    proto = modify_outputs(onnx.load_from_string(model), outputs=constants.MARK_ALL)
    counter = Counter()
    data = proto.SerializeToString()
    runner = OnnxrtRunner(lambda: counter.session(data, "unoptimized"))
    return Comparator.run([runner], data_loader=[feed], warm_up=0)


def _cut(model: bytes, tensor: str, rank: int) -> bytes:
    """The model with one more input in place of a tensor that it computes."""
    proto = onnx.load_from_string(model)
    for node in proto.graph.node:
        for index, name in enumerate(node.input):
            if name == tensor:
                node.input[index] = _FED
    proto.graph.input.append(
        onnx.helper.make_tensor_value_info(_FED, onnx.TensorProto.FLOAT, [None] * rank)
    )
    return proto.SerializeToString()


def _only(results: Any) -> dict[str, Any]:
    return dict(next(iter(results.values()))[0])


class Reduce:
    """The files that the command reads, made once for a suite and a scheme."""

    def __init__(self, bench: Bench, scheme: str) -> None:
        self.bench = bench
        # The middle of a clip: its beginning may be silence.
        few = bench.few[bench.suite.batch]
        self.feed = few[len(few) // 2]
        self.right = _everything(bench.reference, self.feed)
        built = bench.clean(scheme)
        clean = built.proto.SerializeToString()
        exact = _only(self.right)
        self.limits: dict[str, float] = {}
        #: What only a quantized graph has is fed as the clean one has it.
        self.clean = _only(_everything(clean, self.feed))
        self._widen(clean, self.feed, exact)
        for tensor, _ in built.observed.values():
            if tensor in exact:
                feed = {**self.feed, _FED: exact[tensor]}
                self._widen(_cut(clean, tensor, exact[tensor].ndim), feed, exact)

    def _widen(self, model: bytes, feed: Feed, exact: dict[str, Any]) -> None:
        """Let what a clean model gives pass, at every tensor that FP32 has too."""
        for name, found in _only(_everything(model, feed)).items():
            if name in exact and np.issubdtype(found.dtype, np.floating):
                far = np.abs(np.asarray(found, np.float64) - exact[name])
                limit = float(far.max(initial=0)) * (1 + SLACK) + SLACK
                self.limits[name] = max(self.limits.get(name, 0.0), limit)

    def measure(self, specimen: Specimen) -> dict[str, Any]:
        """The operators that are left, how many checks, and seconds of both."""
        exact = _only(self.right)
        own = _only(_everything(specimen.model, self.feed))
        with tempfile.TemporaryDirectory(prefix="reduce-") as name:
            folder = Path(name)
            (folder / "model.onnx").write_bytes(specimen.model)
            # What only the quantized graph has cannot be compared: no limit for it.
            fed = {**self.feed, **own, **self.clean, **exact}
            save_json([fed], str(folder / "inputs.json"))
            entry = next(iter(self.right.items()))
            merged = RunResults()
            iteration = entry[1][0]
            for tensor, array in own.items():
                if tensor not in exact:
                    iteration[tensor] = array
            merged.append((entry[0], [iteration]))
            merged.save(str(folder / "golden.json"))
            limits = ["1e30", *(f"{n}:{v:.9g}" for n, v in self.limits.items())]
            check = [
                *(str(COMMAND), "run", "polygraphy_debug.onnx", "--onnxrt"),
                *("--load-inputs", "inputs.json", "--load-outputs", "golden.json"),
                *("--check-error-stat", "max", "--rtol", "0", "--atol", *limits),
            ]
            whole = [part.replace("polygraphy_debug", "model") for part in check]
            start = time.perf_counter()
            failed = _call(whole, folder).returncode != 0
            once = time.perf_counter() - start
            start = time.perf_counter()
            done = _call(
                [
                    *(str(COMMAND), "debug", "reduce", "model.onnx", "--mode=bisect"),
                    *("-o", "reduced.onnx", "--load-inputs", "inputs.json"),
                    *("--check", *check),
                ],
                folder,
            )
            seconds = time.perf_counter() - start
            left: list[str] = []
            if (folder / "reduced.onnx").exists():
                graph = onnx.load(folder / "reduced.onnx").graph
                left = [n.name for n in graph.node if n.name in self.bench.tensors]
                nodes = len(graph.node)
            else:
                nodes = 0
            return {
                "alarm": failed,
                "operators_left": left,
                "nodes_left": nodes,
                "checks": done.stdout.count("RUNNING | Iteration"),
                "run_seconds": once,
                "reduce_seconds": seconds,
            }


def _call(command: list[str], folder: Path) -> Any:
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.run(
        command,
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        timeout=170,
        check=False,
    )
