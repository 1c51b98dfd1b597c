"""The whole model with exactly quantized weights: what a faultless backend gives."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from harness.backends.protocol import Backend
from harness.backends.registry import Registry
from harness.errors import MissingExtraError, UnsupportedError
from harness.execution.cases_run import run_cases
from harness.execution.jobs import OracleJob, OracleRun
from harness.execution.loaded import Loaded
from harness.models.types import Model, Operator
from harness.schemes.oracle import dequantized_weights

if TYPE_CHECKING:
    import onnx
    import torch

Array = np.ndarray[Any, np.dtype[Any]]


class _Replaced:
    """A model whose operators' weights are others; everything else is the model's."""

    def __init__(self, model: Model, weights: Mapping[str, Array]) -> None:
        self._model = model
        self._weights = weights

    def __getattr__(self, name: str) -> Any:
        return getattr(self._model, name)

    def operators(self) -> tuple[Operator, ...]:
        return self._model.operators()

    def module(self) -> torch.nn.Module:
        import torch

        module = self._model.module()
        for name, weight in self._weights.items():
            layer = module.get_submodule(name)
            tensor = torch.from_numpy(np.ascontiguousarray(weight))
            parameter = layer.weight
            assert isinstance(parameter, torch.Tensor)  # sanity check
            # Not its data: a head may share them with an embedding that is left alone.
            layer.weight = torch.nn.Parameter(
                tensor.to(parameter.dtype), requires_grad=False
            )
        return module

    def onnx(self) -> onnx.ModelProto:
        from harness.models.onnx_operators import replace_weights

        return replace_weights(self._model.onnx(), self._weights)


def run_oracle(job: OracleJob, registry: Registry, loaded: Loaded) -> OracleRun:
    """The whole model with exactly quantized weights, in float32.

    Raises:
        MissingExtraError: the backend is not installed.
    """
    if not registry.backend(job.backend).probe().available:
        raise MissingExtraError(job.backend, job.backend)
    suite = loaded.get(job.suite)
    weights = dequantized_weights(suite.operators, job.scheme)
    backend = with_precision(registry.backend(job.backend), "fp32")
    session = backend.load(_Replaced(suite.model, weights), None)  # type: ignore[arg-type]
    try:
        run = run_cases(session, suite.model, suite.cases, batch=job.suite.batch)
    finally:
        session.close()
    return OracleRun(outputs=run.outputs, backend=job.backend)


def with_precision(backend: Backend, precision: str) -> Backend:
    """The backend as it computes an unquantized model in the given precision."""
    if not hasattr(backend, "precision"):
        raise UnsupportedError(
            f"{backend.name} cannot be asked for {precision}: it has no `precision`"
        )
    chosen = copy.copy(backend)
    chosen.precision = precision
    return chosen
