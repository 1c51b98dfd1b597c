"""onnxruntime.quantization.qdq_loss_debug: activations of two models, SQNR of each.

Its own matching goes by the names that ONNX Runtime's quantizer gives, which our graphs
have not; here tensors of the same name are matched, which favours it. It sets no limit.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from onnxruntime.quantization import qdq_loss_debug as qdq
from onnxruntime.quantization.calibrate import CalibrationDataReader
from planted import Bench, Feed, Specimen

KINDS = ("Conv", "MatMul", "Gemm", "Add", "Identity")


class _Reader(CalibrationDataReader):  # type: ignore[misc]
    def __init__(self, feeds: list[Feed]) -> None:
        self._feeds: Iterator[Feed] = iter(feeds)

    def get_next(self) -> Feed | None:
        return next(self._feeds, None)


class QdqLossDebug:
    """What it needs of a suite: the FP32 model's activations on the same inputs."""

    def __init__(self, bench: Bench) -> None:
        self.bench = bench
        self.right = self._activations(bench.reference)

    def _activations(self, model: bytes) -> Any:
        with tempfile.TemporaryDirectory() as folder:
            plain, shown = Path(folder) / "model.onnx", Path(folder) / "shown.onnx"
            plain.write_bytes(model)
            qdq.modify_model_output_intermediate_tensors(
                plain, shown, op_types_for_saving=list(KINDS)
            )
            feeds = self.bench.few[self.bench.suite.batch]
            return qdq.collect_activations(str(shown), _Reader(feeds))

    def measure(self, specimen: Specimen) -> dict[str, Any]:
        """Operator's tensor -> minus its SQNR in dB; how many runs."""
        found = self._activations(specimen.model)
        matched = {
            name: {
                "pre_qdq": found[name],
                "post_qdq": found[name],
                "float": self.right[name],
            }
            for name in self.bench.tensors.values()
            if name in found and name in self.right
        }
        with np.errstate(all="ignore"):
            errors = qdq.compute_activation_error(matched)
        loss = {
            name: np.inf if np.isnan(e["xmodel_err"]) else -float(e["xmodel_err"])
            for name, e in errors.items()
        }
        return {
            "values": {"SQNR": loss},
            "runs": len(self.bench.few[self.bench.suite.batch]),
        }
