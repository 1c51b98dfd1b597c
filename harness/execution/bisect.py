"""The guilty operator of a backend that shows nothing inside, in O(log n) runs.

Parts of the model are left unquantized: half of the operators, then half of the half
that is still wrong. Each run is held against the oracle of the *same* part, and what
noise can make of that part is measured, by jittering the oracle, not guessed.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Collection, Sequence
from typing import Any, Final

import numpy as np

from harness.backends.protocol import Backend
from harness.backends.registry import Registry
from harness.errors import UnsupportedError, UsageError
from harness.execution.cases_run import moderate, run_cases, spread
from harness.execution.jobs import Bisection, BisectJob, BisectStep
from harness.execution.loaded import Loaded, LoadedSuite
from harness.models.types import Model, Operator
from harness.schemes.apply import plan_one
from harness.schemes.types import Scheme

Array = np.ndarray[Any, np.dtype[Any]]

#: Cases that every part is run on.
_CASES: Final = 4
#: Relative size of the jitter: about a rounding of float32 each way.
_JITTER: Final = 2.0**-23
#: Noise of a model with nothing to move: sums of a thousand roundings of float32.
_LEAST: Final = 2.0**-19
#: A part is wrong when it is so many times as far off as jitter moves its oracle.
_BEYOND: Final = 8.0


def find_first(
    count: int, wrong: Callable[[Sequence[int]], bool]
) -> tuple[tuple[int, ...], int]:
    """The smallest run of neighbours that is wrong by itself, by halving.

    Args:
        count: parts, all of them together known to be wrong.
        wrong: whether these parts alone are wrong.

    Returns:
        the parts (one, where halving gets so far: two halves may be wrong only
        together) and how often `wrong` was asked: at most 2 log2(count).
    """
    found, asked = tuple(range(count)), 0
    while len(found) > 1:
        middle = len(found) // 2
        for half in (found[:middle], found[middle:]):
            asked += 1
            if wrong(half):
                found = half
                break
        else:
            break
    return found, asked


def run_bisection(job: BisectJob, registry: Registry, loaded: Loaded) -> Bisection:
    """Halve the quantized operators of a target until one is found.

    Raises:
        UsageError: the whole is no further off than noise explains, or the scheme
            quantizes nothing.
        UnsupportedError: the oracle's backend cannot run the scheme.
    """
    suite = loaded.get(job.suite)
    names = [
        operator.name
        for operator in suite.operators
        if _quantized(job.scheme, operator)
    ]
    if not names:
        raise UsageError(f"{job.scheme.name} quantizes no operator of the model")
    parts = _Parts(job, suite, registry, names)
    if not parts(range(len(names))):
        step = parts.steps[-1]
        raise UsageError(
            f"{job.backend}/{job.scheme.name}: the outputs are {step.off:.3g} off the "
            f"oracle's, and jitter alone makes {step.noise:.3g}: nothing to halve"
        )
    found, _ = find_first(len(names), parts)
    return Bisection(
        operators=tuple(names[index] for index in found), steps=tuple(parts.steps)
    )


def _quantized(scheme: Scheme, operator: Operator) -> bool:
    plan = plan_one(scheme, operator)
    return bool(plan.weights or plan.activations)


class _Parts:
    """Runs parts of a scheme on the backend and in the oracle."""

    def __init__(
        self,
        job: BisectJob,
        suite: LoadedSuite,
        registry: Registry,
        names: Sequence[str],
    ) -> None:
        self._job = job
        self._suite = suite
        self._names = names
        self._cases = spread(moderate(suite.cases), _CASES)
        self._target = registry.backend(job.backend)
        self._oracle = registry.backend(job.oracle)
        self.steps: list[BisectStep] = []

    def __call__(self, part: Sequence[int]) -> bool:
        kept = {self._names[index] for index in part}
        # fnmatch would take [, ] and * in a name for a pattern.
        left = tuple(fnmatch_escape(n) for n in self._names if n not in kept)
        scheme = dataclasses.replace(
            self._job.scheme, keep=(*self._job.scheme.keep, *left)
        )
        model = self._suite.model
        target = self._run(self._target, model, scheme)
        oracle = self._run(self._oracle, model, scheme)
        moved = Jittered(model, self._names, self._job.suite.seed)
        jittered = self._run(self._oracle, moved, scheme)
        step = BisectStep(
            operators=tuple(n for n in self._names if n in kept),
            off=distance(oracle, target),
            noise=distance(oracle, jittered),
        )
        self.steps.append(step)
        return not step.off <= _BEYOND * max(step.noise, _LEAST)

    def _run(self, backend: Backend, model: Any, scheme: Scheme) -> dict[str, Any]:
        support = backend.supports(model, scheme)
        if not support.supported:
            raise UnsupportedError(f"{backend.name}: {support.reason}")
        session = backend.load(model, scheme)
        try:
            return run_cases(
                session, model, self._cases, batch=self._job.suite.batch
            ).outputs
        finally:
            session.close()


def fnmatch_escape(name: str) -> str:
    """A pattern that matches the name alone."""
    return "".join(f"[{c}]" if c in "*?[" else c for c in name)


def distance(first: dict[str, Any], second: dict[str, Any]) -> float:
    """Relative L2 over all cases and outputs; inf where one alone is not finite."""
    difference = size = 0.0
    for case, arrays in first.items():
        for name, array in arrays.items():
            other = second[case][name]
            finite = np.isfinite(array)
            if array.shape != other.shape or not np.array_equal(
                finite, np.isfinite(other)
            ):
                return math.inf
            wide = array.astype(np.float64)
            difference += float(np.square(wide - other)[finite].sum())
            size += float(np.square(wide)[finite].sum())
    return math.sqrt(difference / size) if size else math.sqrt(difference)


class Jittered:
    """The model with everything but the named weights moved by about a rounding.

    Quantized weights stay: jitter would vanish in their codes. What moves is what
    another order of sums moves: biases, norms, embeddings, so every activation.
    """

    def __init__(self, model: Model, kept: Collection[str], seed: int) -> None:
        self._model = model
        self._kept = {f"{name}.weight" for name in kept}
        self._seed = seed

    def __getattr__(self, name: str) -> Any:
        return getattr(self._model, name)

    def module(self) -> Any:
        """The module, moved; the same draw every time."""
        import torch

        module = self._model.module()
        generator = torch.Generator().manual_seed(self._seed)
        # Parameters alone: a buffer may be an exponent or an index, no magnitude.
        with torch.no_grad():
            for name, tensor in module.named_parameters():
                if tensor.is_floating_point() and name not in self._kept:
                    noise = torch.rand(tensor.shape, generator=generator)
                    tensor.mul_(1 + (2 * noise - 1) * _JITTER)
        return module
