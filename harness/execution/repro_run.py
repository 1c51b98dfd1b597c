"""The smallest input on which an operator is wrong, found in the worker."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Final

import numpy as np

from harness.backends.protocol import Backend, Session
from harness.backends.registry import Registry
from harness.compare.explained import Explained
from harness.diagnose.observation import Call, Observation
from harness.diagnose.shrink import Shrinker
from harness.errors import BackendError, ModelError, UnsupportedError, UsageError
from harness.execution.cases_run import moderate, run_cases, spread
from harness.execution.jobs import Repro, ReproJob
from harness.execution.loaded import Loaded
from harness.execution.target_run import declared_arithmetic
from harness.judge.checks.explained import expected_energy
from harness.judge.levels import ALPHA
from harness.judge.statistics.quadratic import energy_factor, energy_p_value
from harness.models.onnx_model import OnnxModel
from harness.models.onnx_single import INPUT, single_operator
from harness.models.types import Case, Model, Operator
from harness.schemes.apply import plan_one
from harness.schemes.types import Scheme

Array = np.ndarray[Any, np.dtype[Any]]

#: Inputs that are tried while shrinking.
_TRIES: Final = 120
#: Cases among which the smallest failing one is looked for.
_CASES: Final = 16
#: Rows of the operator's own input that are kept for its single-operator model.
_ROWS: Final = 16


class Probe:
    """Runs an input and says whether one operator is wrong on it."""

    def __init__(
        self, session: Session, model: Model, operator: Operator, scheme: Scheme
    ) -> None:
        self._session = session
        self._model = model
        self._operator = operator
        self._scheme = scheme
        self._arithmetic = declared_arithmetic(session)
        self._watched = [
            o.name for o in model.operators() if _quantized(plan_one(scheme, o))
        ]
        #: Of the input run last.
        self.calls: list[Call] = []
        self.unexplained = 0.0
        self.limit = 0.0

    def __call__(self, inputs: Mapping[str, Array]) -> bool:
        """Whether noise cannot explain the operator's outputs."""
        self.calls = []
        explained = Explained(self._scheme, self._arithmetic)

        def on_capture(name: str, x: Array, y: Array) -> None:
            if name == self._operator.name:
                self.calls.append(Call(x.copy(), y.copy(), len(self.calls)))
                explained.add(self._operator, x, y)

        try:
            run_cases(
                self._session,
                self._model,
                [Case(id="repro", inputs=inputs)],
                batch=1,
                capture=self._watched,
                on_capture=on_capture,
                capture_steps=None,
            )
        except (BackendError, RuntimeError, ValueError, IndexError):
            # Too small for the model: it is no smaller example of this failure.
            return False
        if not self.calls:
            return False
        entry = explained.result()[0]
        unit = entry.quantization_sq or entry.signal_sq or 1.0
        self.unexplained = float(np.sqrt(entry.residual_sq / unit))
        noise = expected_energy(entry) / unit
        self.limit = float(energy_factor(ALPHA) * np.sqrt(noise))
        return energy_p_value(entry.residual_sq, expected_energy(entry)) <= ALPHA


def _quantized(plan: Any) -> bool:
    return bool(plan.weights or plan.activations)


def run_repro(job: ReproJob, registry: Registry, loaded: Loaded) -> Repro:
    """Shrink a case of the suite while the operator is wrong on it.

    Raises:
        UsageError: the operator is right on every case that was tried.
        UnsupportedError: the backend cannot run the target.
    """
    suite = loaded.get(job.suite)
    backend = registry.backend(job.backend)
    named = {operator.name: operator for operator in suite.operators}
    if job.operator not in named:
        raise UsageError(f"{job.operator}: the model has no such operator")
    operator = named[job.operator]
    session = backend.load(suite.model, job.scheme)
    try:
        probe = Probe(session, suite.model, operator, job.scheme)
        case = _smallest(spread(moderate(suite.cases), _CASES), probe)
        if case is None:
            raise UsageError(
                f"{job.operator} is right on each of {min(_CASES, len(suite.cases))} "
                "cases alone: it needs batch mates, or an earlier call"
            )
        shrinker = Shrinker(probe, tries=_TRIES)
        inputs = shrinker.shrink(case.inputs, groups(suite.model, case))
        probe(inputs)
    finally:
        session.close()
    worst = _worst(operator, job.scheme, probe.calls)
    x, y, exact = _rows(operator, worst)
    return Repro(
        case=case.id,
        inputs=inputs,
        tried=shrinker.tried,
        unexplained=probe.unexplained,
        limit=probe.limit,
        operator=operator,
        x=x,
        observed=y,
        expected=exact,
        alone=_alone(backend, operator, job.scheme, x),
    )


def _smallest(cases: Sequence[Case], probe: Probe) -> Case | None:
    """The case with fewest elements on which the operator is wrong."""
    by_size = sorted(cases, key=lambda c: sum(a.size for a in c.inputs.values()))
    return next((case for case in by_size if probe(case.inputs)), None)


def groups(model: Model, case: Case) -> list[list[tuple[str, int]]]:
    """Axes of a case that may be cut: those of any length, together if as long."""
    found: dict[int, list[tuple[str, int]]] = {}
    for spec in model.inputs:
        array = case.inputs.get(spec.name)
        if array is None or spec.name in model.state.values():
            continue
        step = spec.name in model.step_inputs
        if step and array.shape[0] > 1:
            found.setdefault(-1, []).append((spec.name, 0))
        batch = model.batch_axes.get(spec.name, 0)
        for axis, size in enumerate(spec.shape):
            length = array.shape[axis + step]
            if size is None and axis != batch and length > 1:
                found.setdefault(length, []).append((spec.name, axis + step))
    return list(found.values())


def _worst(operator: Operator, scheme: Scheme, calls: Sequence[Call]) -> Observation:
    """The call that is furthest off."""

    def drift(call: Call) -> float:
        seen = Observation(operator, scheme, (call,))
        return seen.drift(seen.exact)

    return Observation(operator, scheme, (max(calls, key=drift),))


def _rows(operator: Operator, seen: Observation) -> tuple[Array, Array, Array]:
    """Input, observed and right output; of a linear layer only the rows most off.

    A scale may be shared by rows: where that is so the rows are as they were.
    """
    call, exact = seen.calls[0], seen.exact[0]
    if operator.kind != "linear":
        return call.x, call.y, exact
    x = call.x.reshape(-1, call.x.shape[-1])
    y = call.y.reshape(-1, call.y.shape[-1])
    right = exact.reshape(y.shape)
    activations = seen.scheme.activations
    if activations is not None and activations.granularity == "tensor":
        return x, y, right
    with np.errstate(invalid="ignore"):
        off = np.nan_to_num(np.square(y - right).sum(axis=-1), nan=np.inf)
    kept = np.sort(np.argsort(-off)[:_ROWS])
    return x[kept], y[kept], right[kept]


def _alone(backend: Backend, operator: Operator, scheme: Scheme, x: Array) -> bool:
    """Whether the operator is wrong in a model of its own, too."""
    from onnx import save

    with TemporaryDirectory(prefix="quantharness-") as folder:
        path = Path(folder) / "operator.onnx"
        save(single_operator(operator), path)
        model = OnnxModel(path)
        only = model.operators()[0]
        known, results = (
            {only.name: amax[operator.name]} if operator.name in amax else {}
            for amax in (scheme.calibration, scheme.output_calibration)
        )
        scheme = dataclasses.replace(
            scheme, calibration=known, output_calibration=results
        )
        try:
            session = backend.load(model, scheme)
        except (
            # A quantized file is of the whole model.
            ModelError,
            UnsupportedError,
            BackendError,
            RuntimeError,
            ValueError,
        ):
            return False
        try:
            return Probe(session, model, only, scheme)({INPUT: x})
        finally:
            session.close()
