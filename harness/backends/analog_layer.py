"""A layer on a crossbar: weights as conductances, converters on both sides."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812 - torch's own convention
from torch import Tensor as T  # noqa: N817 - as short as it is frequent

from harness.backends.analog_device import (
    READ,
    START,
    Cells,
    decades,
    expected,
    exponents,
    programming_noise,
)
from harness.backends.torch_layers import QuantizedLayer
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


class AnalogLayer(QuantizedLayer):
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
        super().__init__(layer, operator, scheme, plan)
        self.native = ""
        self.array = array
        self.lot = lot
        weight = self.stored.decode()
        axes = tuple(range(1, weight.ndim))
        #: Weight that the largest conductance stands for, by column.
        self.unit = weight.abs().amax(dim=axes, keepdim=True).clamp(min=1e-30)
        relative = weight / self.unit
        #: Targets of the two cells of each weight.
        self.target = torch.stack([relative.clamp(min=0), (-relative).clamp(min=0)])
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

    def read(self) -> T:
        """The weight as one read finds it."""
        noise = torch.randn(self.drifted.shape, generator=self.reads)
        cells = (self.drifted + self.spread * noise).clamp(min=0)
        weight = (cells[0] - cells[1]) * self.unit * self.factor
        weight[list(self.array.faults.dead.get(self.operator.name, ()))] = 0
        return weight * self.array.faults.scale.get(self.operator.name, 1.0)

    def forward(self, x: T) -> T:
        """DAC, array, noise, ADC, bias; in the dtype of the input."""
        wide = x.to(torch.float32)
        given = wide if self.activations is None else self._quantize(wide)
        unit = self._output_unit(wide)
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
        """Mean and mean square, over devices and reads, of each output minus the exact.

        Of devices as they were measured, compensated and without broken columns,
        whatever this one is; of what lies beyond the converter's range the mean is cut
        off.
        """
        wide = x.to(torch.float32)
        given = wide if self.activations is None else self._quantize(wide)
        mean, variance, factor = self._expectation()
        scale = self.unit * factor
        unit = self._output_unit(wide)
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

    def _output_unit(self, x: T) -> T:
        """Largest input times largest weight of each column, as outputs are shaped.

        Inputs are those of one read: a row, or the patch under a convolution's kernel
        in the channels of its group. Not 0, so that an input of zeros has no noise and
        divides nothing by 0.
        """
        if self.operator.kind == "linear":
            unit = x.abs().amax(dim=-1, keepdim=True) * self.unit.reshape(-1)
        else:
            column = self.unit.reshape(-1, *[1] * (x.ndim - 2))
            unit = self._largest_in_patch(x) * column
        return unit.clamp(min=1e-30)

    def _largest_in_patch(self, x: T) -> T:
        """Shape (batch, output channels, positions)."""
        operator = self.operator
        grouped = x.abs().unflatten(1, (operator.groups, -1)).amax(dim=2)
        ends = [end for pair in reversed(operator.padding) for end in pair]
        pool: Any = F.max_pool1d if x.ndim == 3 else F.max_pool2d
        largest: T = pool(
            F.pad(grouped, ends),
            tuple(self.target.shape[3:]),
            stride=operator.stride,
            dilation=operator.dilation,
        )
        columns = self.target.shape[1] // operator.groups
        return largest.repeat_interleave(columns, dim=1)

    def _product(self, x: T, weight: T) -> T:
        operator = self.operator
        if operator.kind == "linear":
            return F.linear(x, weight)
        function: Any = F.conv1d if weight.ndim == 3 else F.conv2d
        result: T = function(
            x,
            weight,
            stride=operator.stride,
            padding=tuple(before for before, _ in operator.padding),
            dilation=operator.dilation,
            groups=operator.groups,
        )
        return result

    def _biased(self, y: T) -> T:
        if self.bias is None:
            return y
        if self.operator.kind == "linear":
            return y + self.bias
        result: T = y + self.bias.reshape(-1, *[1] * (y.ndim - 2))
        return result
