"""A layer on a crossbar, whoever simulates it: its columns, their units, products."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812 - torch's own convention
from torch import Tensor as T  # noqa: N817 - as short as it is frequent

from harness.backends.torch_layers import QuantizedLayer
from harness.models.types import Operator
from harness.schemes.apply import OperatorPlan
from harness.schemes.types import Scheme


class CrossbarLayer(QuantizedLayer, ABC):
    """The layer's quantized weight as targets of conductances, a column a channel.

    Args:
        layer: the layer in full precision.
        operator: the same, as data.
        scheme: INT8 weights are the targets, INT8 inputs the DAC's codes.
        plan: which of weights and activations.
        lot: of another lot come other devices from the same seeds.
    """

    def __init__(
        self,
        layer: torch.nn.Module,
        operator: Operator,
        scheme: Scheme,
        plan: OperatorPlan,
        *,
        lot: int = 0,
    ) -> None:
        super().__init__(layer, operator, scheme, plan)
        self.native = ""
        self.lot = lot
        weight = self.stored.decode()
        axes = tuple(range(1, weight.ndim))
        #: Weight that the largest conductance stands for, by column.
        self.unit = weight.abs().amax(dim=axes, keepdim=True).clamp(min=1e-30)
        #: The weight in that unit: -1 to 1.
        self.relative = weight / self.unit

    @abstractmethod
    def program(self, seed: int, age: float = 0.0) -> None:
        """Become the device of a seed, `age` seconds after it was programmed."""

    @abstractmethod
    def weights(self) -> T:
        """What the cells hold now, beside `relative`: not compensated, read once."""

    @abstractmethod
    def expected_error(self, x: T) -> tuple[T, T]:
        """Mean and mean square, over devices and reads, of each output minus the exact.

        Of devices as they were measured, compensated and without broken columns,
        whatever this one is; of what lies beyond the converter's range the mean is cut
        off.
        """

    def _given(self, x: T) -> T:
        """float32 inputs as the scheme rounds them."""
        wide = x.to(torch.float32)
        return wide if self.activations is None else self._quantize(wide)

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
            tuple(self.relative.shape[2:]),
            stride=operator.stride,
            dilation=operator.dilation,
        )
        columns = self.relative.shape[0] // operator.groups
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
