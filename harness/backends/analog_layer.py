"""A layer on a crossbar: weights as conductances, converters on both sides."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np
import torch
from torch import Tensor as T  # noqa: N817 - as short as it is frequent

from harness.backends.analog_crossbar import CrossbarLayer
from harness.backends.analog_device import (
    READ,
    START,
    Cells,
    decades,
    expected,
    exponents,
    programming_noise,
)
from harness.models.types import Operator
from harness.schemes.apply import OperatorPlan
from harness.schemes.types import Scheme

Array = np.ndarray[Any, np.dtype[Any]]

#: Cells without the noise of reading: what the compensation compares.
_UNREAD: Final = Cells(read=0.0)


@dataclass(frozen=True, kw_only=True)
class Faults:
    """What is broken, by operator; nothing of it is declared."""

    #: Columns (output channels) that give nothing.
    dead: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    #: Factor on every output: a tile whose scale is wrong.
    scale: Mapping[str, float] = field(default_factory=dict)
    #: Added to every output, in units of the largest input times the largest weight.
    shift: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Crossbar:
    """A crossbar beside its cells.

    The converter behind a column has `bits` bits over -`bound` to `bound`, and adds
    noise of standard deviation `noise`, both in units of the largest input times the
    largest weight: Rasch et al., "A flexible and fast PyTorch toolkit for simulating
    training and inference on analog crossbar arrays", AICAS 2021. Bits and bound are
    the defaults of aihwkit's `IOParameters`; its noise, 0.06, is meant for models
    trained to bear it, and a third of it is taken.
    """

    cells: Cells = field(default_factory=Cells)
    bits: int = 9
    bound: float = 12.0
    noise: float = 0.02
    #: Whether all outputs are multiplied by one number a layer, found by reading the
    #: sum of its conductances again: global drift compensation (Joshi et al. 2020).
    compensated: bool = True
    faults: Faults = field(default_factory=Faults)


class AnalogLayer(CrossbarLayer):
    """The layer's quantized weight on two cells each, its input through a DAC.

    Args:
        layer: the layer in full precision.
        operator: the same, as data.
        scheme: INT8 weights are the targets, INT8 inputs the DAC's codes.
        plan: which of weights and activations.
        array: the hardware.
        lot: of another lot come other devices from the same seeds.
    """

    def __init__(
        self,
        layer: torch.nn.Module,
        operator: Operator,
        scheme: Scheme,
        plan: OperatorPlan,
        array: Crossbar,
        *,
        lot: int = 0,
    ) -> None:
        super().__init__(layer, operator, scheme, plan, lot=lot)
        self.array = array
        #: Targets of the two cells of each weight.
        self.target = torch.stack(
            [self.relative.clamp(min=0), (-self.relative).clamp(min=0)]
        )
        self._expected: dict[float, tuple[T, T, float]] = {}
        self.program(seed=0)

    def program(self, seed: int, age: float = 0.0) -> None:
        """Become another device: every cell programmed and its exponent drawn anew."""
        draw = torch.Generator().manual_seed(seed)
        target, cells = self.target, self.array.cells
        wide = target.double().numpy()
        noise = torch.from_numpy(programming_noise(wide, cells)).float()
        first = torch.randn(target.shape, generator=draw)
        self.programmed = (target + noise * first).clamp(min=0)
        mean, deviation = (torch.from_numpy(a).float() for a in exponents(wide))
        second = torch.randn(target.shape, generator=draw)
        self.exponent = (mean + deviation * second).abs() * cells.drift
        self.reads = torch.Generator().manual_seed(seed ^ 0x5EED)
        self.at(age)

    def at(self, age: float) -> None:
        """Seconds since it was programmed."""
        self.age = age
        self.drifted = self.programmed * torch.exp(-self.exponent * decades(age))
        self.factor = 1.0
        if self.array.compensated:
            self.factor = float(self.programmed.sum() / self.drifted.sum())
        span = np.log((age + START + READ) / (2 * READ))
        quality = 0.0088 / (self.programmed.clamp(min=1e-12) ** 0.65).clamp(min=1e-3)
        quality = quality.clamp(max=0.2)
        self.spread = self.drifted * quality * float(np.sqrt(span))
        self.spread *= self.array.cells.read

    def weights(self) -> T:
        """As of `CrossbarLayer`; every read finds others."""
        noise = torch.randn(self.drifted.shape, generator=self.reads)
        cells = (self.drifted + self.spread * noise).clamp(min=0)
        return cells[0] - cells[1]

    def read(self) -> T:
        """The weight as one read finds it."""
        weight = self.weights() * self.unit * self.factor
        weight[list(self.array.faults.dead.get(self.operator.name, ()))] = 0
        return weight * self.array.faults.scale.get(self.operator.name, 1.0)

    def forward(self, x: T) -> T:
        """DAC, array, noise, ADC, bias; in the dtype of the input."""
        given = self._given(x)
        unit = self._output_unit(x.to(torch.float32))
        y = self._product(given, self.read())
        array = self.array
        y = y + array.noise * unit * torch.randn(y.shape, generator=self.reads)
        step = 2 * array.bound / (2**array.bits - 2)
        codes = torch.round(y / (step * unit))
        largest = 2 ** (array.bits - 1) - 1
        y = codes.clamp(-largest, largest) * step * unit
        y = y + self.array.faults.shift.get(self.operator.name, 0.0) * unit
        return self._biased(y).to(x.dtype)

    def expected_error(self, x: T) -> tuple[T, T]:
        """As of `CrossbarLayer`, from the numbers of `analog_device`."""
        given = self._given(x)
        mean, variance, factor = self._expectation()
        scale = self.unit * factor
        unit = self._output_unit(x.to(torch.float32))
        step = 2 * self.array.bound / (2**self.array.bits - 2)
        converters = (self.array.noise**2 + step**2 / 12) * unit**2
        spread = self._product(given**2, (variance[0] + variance[1]) * scale**2)
        centre = self._product(given, (mean[0] - mean[1]) * scale)
        largest = self.array.bound * unit
        shift = centre.clamp(-largest, largest)
        shift = shift - self._product(given, self.stored.decode())
        return shift, shift**2 + spread + converters

    def _expectation(self) -> tuple[T, T, float]:
        """Of every cell the mean and variance, and the compensation, at this age."""
        if self.age not in self._expected:
            target = self.target.double().numpy()
            mean, variance = expected(target, self.age, Cells())
            fresh, _ = expected(target, 0.0, _UNREAD)
            later, _ = expected(target, self.age, _UNREAD)
            self._expected[self.age] = (
                torch.from_numpy(mean).float(),
                torch.from_numpy(variance).float(),
                float(fresh.sum() / later.sum()),
            )
        return self._expected[self.age]
