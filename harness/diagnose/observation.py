"""What was observed of one operator, beside what the oracle says of the same inputs."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Final

import numpy as np

from harness.backends.protocol import Arithmetic
from harness.models.types import Operator
from harness.numerics import Quantized
from harness.schemes.apply import (
    OperatorPlan,
    plan_one,
    quantize_activation,
    quantize_weight,
)
from harness.schemes.linear_algebra import add_bias, product
from harness.schemes.oracle import UNIT_ROUNDOFF, OperatorOracle
from harness.schemes.outputs import output_grid
from harness.schemes.types import Scheme

Array = np.ndarray[Any, np.dtype[Any]]

#: Elements of all observed inputs that are kept; more calls are left out.
_KEPT: Final = 4_000_000


@dataclass(frozen=True, eq=False)
class Call:
    """One call: input before quantization, and the output, float32."""

    x: Array
    y: Array
    #: Which call of the session it was, from 0.
    index: int = 0


@dataclass(frozen=True, eq=False)
class Observation:
    """Calls of one operator under a scheme, and what the oracle makes of them.

    Attributes:
        operator: as the model has it.
        scheme: calibrated.
        calls: observed, in order.
        arithmetic: as the backend declares it.
        others: operators that it could be confused with.
        shown: float32 weight that the backend says it holds; None: it does not say.
    """

    operator: Operator
    scheme: Scheme
    calls: tuple[Call, ...]
    arithmetic: Arithmetic = field(default_factory=Arithmetic)
    others: tuple[Operator, ...] = ()
    shown: Array | None = None

    @cached_property
    def plan(self) -> OperatorPlan:
        """What the scheme does to it."""
        return plan_one(self.scheme, self.operator)

    @cached_property
    def stored(self) -> Quantized | None:
        """The weight as the scheme quantizes it; None: left alone."""
        if not self.plan.weights:
            return None
        return quantize_weight(self.operator, self.scheme)

    @cached_property
    def full_weight(self) -> Array:
        """float32, nothing quantized."""
        return np.asarray(self.operator.weight, np.float32)

    @cached_property
    def weight(self) -> Array:
        """float32, as the oracle decodes it."""
        return self.full_weight if self.stored is None else self.stored.dequantize()

    @cached_property
    def entries(self) -> tuple[Array, ...]:
        """Every call's input as the oracle decodes it, float32."""
        return tuple(self.quantized(call.x) for call in self.calls)

    def quantized(self, x: Array) -> Array:
        """float32 input as the oracle decodes it."""
        if not self.plan.activations:
            return np.asarray(x, np.float32)
        found: Array = quantize_activation(self.operator, x, self.scheme).dequantize()
        return found

    def output(self, x: Array, weight: Array, *, bias: bool = True) -> Array:
        """The operator's output, float64, of a decoded input and weight.

        Without the bias it is the product alone, which no scheme rounds.
        """
        with np.errstate(all="ignore"):
            result = product(self.operator, x.astype(np.float64), weight.astype(float))
        if not bias:
            return result
        whole = add_bias(self.operator, result)
        if not self.plan.outputs:
            return whole
        return output_grid(self.operator, self.scheme).round(whole)

    @cached_property
    def exact(self) -> tuple[Array, ...]:
        """The oracle's outputs, float64."""
        return tuple(self.output(x, self.weight) for x in self.entries)

    @cached_property
    def unit(self) -> float:
        """Sum of squares that drift is measured in: quantization's, or the signal's."""
        quantization = signal = 0.0
        for call, exact in zip(self.calls, self.exact, strict=True):
            full = self.output(np.asarray(call.x, np.float32), self.full_weight)
            quantization += _squares(exact - full)
            signal += _squares(full)
        return quantization or signal or 1.0

    @cached_property
    def noise(self) -> float:
        """Sum of squares that accumulation and storing are expected to leave."""
        oracle = OperatorOracle(self.operator, self.scheme)
        return sum(
            oracle(
                call.x,
                accumulate=self.arithmetic.accumulate,
                output=self.arithmetic.output,
            ).noise_sq
            for call in self.calls
        )

    @cached_property
    def tolerance(self) -> float:
        """Share of the largest output that a single faithful element may be off by."""
        unit = UNIT_ROUNDOFF[self.arithmetic.accumulate]
        last = UNIT_ROUNDOFF[self.arithmetic.output]
        return 8 * (unit * math.sqrt(self.operator.reduction) + last)

    def drift(self, predicted: Sequence[Array]) -> float:
        """||observed - predicted|| / unit; an element that only one has is a signal."""
        total = 0.0
        for call, wanted in zip(self.calls, predicted, strict=True):
            total += squared_difference(call.y, wanted)
        return math.sqrt(total / self.unit)


def _squares(values: Array) -> float:
    finite = values[np.isfinite(values)]
    return float(np.square(finite).sum())


def squared_difference(observed: Array, wanted: Array) -> float:
    """Sum of squares; two non-finite values agree, one alone is infinitely far."""
    if observed.shape != wanted.shape:
        return math.inf
    first, second = np.isfinite(observed), np.isfinite(wanted)
    if not np.array_equal(first, second):
        return math.inf
    with np.errstate(invalid="ignore", over="ignore"):
        difference = np.where(first, observed.astype(np.float64) - wanted, 0.0)
    return float(np.square(difference).sum())


def keep(calls: Sequence[Call], limit: int = _KEPT) -> tuple[Call, ...]:
    """As many of the calls, in order, as fit; one at least."""
    kept: list[Call] = []
    size = 0
    for call in calls:
        size += call.x.size + call.y.size
        if kept and size > limit:
            break
        kept.append(call)
    return tuple(kept)
