"""A layer on IBM's simulated crossbar."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import torch
from torch import Tensor as T  # noqa: N817 - as short as it is frequent

from harness.backends.aihwkit_device import (
    Compensation,
    Converter,
    compensation,
    moments,
)
from harness.backends.analog_crossbar import CrossbarLayer
from harness.backends.analog_device import Cells
from harness.models.types import Operator
from harness.schemes.apply import OperatorPlan
from harness.schemes.types import Scheme

if TYPE_CHECKING:
    from aihwkit.simulator.configs import TorchInferenceRPUConfig


#: The unit of a column, or of an output, of nothing but zeros; of `CrossbarLayer`.
_NOTHING: Final = 1e-30


@dataclass(frozen=True, kw_only=True)
class Hardware:
    """What is simulated; a default is what is declared, anything else is a fault."""

    cells: Cells = field(default_factory=Cells)
    converter: Converter = field(default_factory=Converter)
    #: Whether IBM's GlobalDriftCompensation is used.
    compensated: bool = True


def configuration(hardware: Hardware) -> TorchInferenceRPUConfig:
    """IBM's configuration of one layer: a crossbar as large as the layer.

    Inputs come as the scheme has rounded them, so its DAC rounds nothing; it is scaled
    to the largest input of each row. Outputs that are too large are cut off, not read
    again with a smaller input.
    """
    from aihwkit.inference import GlobalDriftCompensation, PCMLikeNoiseModel
    from aihwkit.simulator.configs import TorchInferenceRPUConfig
    from aihwkit.simulator.parameters.enums import (
        BoundManagementType,
        NoiseManagementType,
    )

    made = TorchInferenceRPUConfig()
    made.mapping.max_input_size = made.mapping.max_output_size = 0
    made.mapping.weight_scaling_omega = 1.0
    made.mapping.weight_scaling_columnwise = True
    made.forward.inp_res = -1
    made.forward.out_res = 1 / (2**hardware.converter.bits - 2)
    made.forward.out_bound = hardware.converter.bound
    made.forward.out_noise = hardware.converter.noise
    made.forward.noise_management = NoiseManagementType.ABS_MAX
    made.forward.bound_management = BoundManagementType.NONE
    made.noise_model = PCMLikeNoiseModel(
        g_max=25.0,
        prog_noise_scale=hardware.cells.programming,
        read_noise_scale=hardware.cells.read,
        drift_scale=hardware.cells.drift,
    )
    made.drift_compensation = (
        GlobalDriftCompensation() if hardware.compensated else None
    )
    return made


class AihwkitLayer(CrossbarLayer):
    """The layer's quantized weight as aihwkit's `convert_to_analog` maps it.

    Args:
        layer: the layer in full precision.
        operator: the same, as data.
        scheme: INT8 weights are the targets, INT8 inputs the DAC's codes.
        plan: which of weights and activations.
        hardware: what is simulated.
        lot: of another lot come other devices from the same seeds.
    """

    def __init__(
        self,
        layer: torch.nn.Module,
        operator: Operator,
        scheme: Scheme,
        plan: OperatorPlan,
        hardware: Hardware,
        *,
        lot: int = 0,
    ) -> None:
        from aihwkit.nn.conversion import convert_to_analog

        super().__init__(layer, operator, scheme, plan, lot=lot)
        # A column of zeros is scaled by 1, whatever the others are: its cells, which
        # are noisy, then stand for weights of that size.
        self.unit = torch.where(self.unit > _NOTHING, self.unit, 1.0)
        made = configuration(hardware)
        self.analog: Any = convert_to_analog(self._digital(), made).eval()
        self._compensations: dict[float, Compensation] = {}
        self.program(seed=0)

    def _digital(self) -> torch.nn.Module:
        """The layer with the weight that the scheme stores.

        Along one axis it is a convolution along two, the first of length 1: those along
        one need an index that aihwkit's torch tile does not have.
        """
        weight, operator = self.stored.decode(), self.operator
        biased = self.bias is not None
        digital: torch.nn.Linear | torch.nn.Conv2d
        if operator.kind == "linear":
            digital = torch.nn.Linear(weight.shape[1], weight.shape[0], bias=biased)
        else:
            digital = torch.nn.Conv2d(
                weight.shape[1],
                weight.shape[0],
                _pair(tuple(weight.shape[2:]), 1),
                stride=_pair(operator.stride, 1),
                padding=_pair(tuple(before for before, _ in operator.padding), 0),
                dilation=_pair(operator.dilation, 1),
                bias=biased,
            )
        with torch.no_grad():
            digital.weight.copy_(weight.reshape(digital.weight.shape))
            if digital.bias is not None:
                digital.bias.copy_(self.bias)
        return digital

    def program(self, seed: int, age: float = 0.0) -> None:
        """Become the device of a seed: programmed anew, then drifted.

        aihwkit draws from torch's global generator, which is put back.
        """
        self.age = age
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.analog.program_analog_weights()
            self.analog.drift_analog_weights(age)
            self._reads = torch.get_rng_state()

    def weights(self) -> T:
        """As of `CrossbarLayer`; the same until it is drawn anew."""
        (tile,) = self.analog.analog_tiles()
        found: T = tile.tile.get_weights().detach()
        return found.reshape(self.relative.shape)

    def reference(self) -> T:
        """The weight that aihwkit programs, read back from its crossbar."""
        (tile,) = self.analog.analog_tiles()
        relative = tile.reference_combined_weights
        weight = relative * tile.get_mapping_scales().reshape(-1, 1)
        return torch.as_tensor(
            weight.reshape(self.unit.shape[0], *self.relative.shape[1:])
        )

    def forward(self, x: T) -> T:
        """What aihwkit's layer gives, in the dtype of the input."""
        given = self._given(x)
        with torch.random.fork_rng(devices=[]):
            torch.set_rng_state(self._reads)
            along_one = self.operator.kind == "conv" and given.ndim == 3
            y = self.analog(given.unsqueeze(2) if along_one else given)
            y = y.squeeze(2) if along_one else y
            self._reads = torch.get_rng_state()
        result: T = y.to(x.dtype)
        return result

    def expected_error(self, x: T) -> tuple[T, T]:
        """As of `CrossbarLayer`, from the numbers of `aihwkit_device`.

        The compensation multiplies what the converter gives: its noise and steps too.
        """
        given, converter = self._given(x), Converter()
        target = self.relative.double().numpy()
        if self.age not in self._compensations:
            found = compensation(target, self.age, converter)
            self._compensations[self.age] = found
        factor = self._compensations[self.age]
        mean, variance = (
            torch.from_numpy(np.asarray(a, np.float32))
            for a in moments(target, self.age, factor.top)
        )
        unit = self._output_unit(given)
        # An input of zeros is scaled by 1.
        column = self.unit.reshape(-1, *[1] * (unit.ndim - 2))
        column = self.unit.reshape(-1) if self.operator.kind == "linear" else column
        unit = torch.where(unit > _NOTHING, unit, column)
        largest = converter.bound * unit
        centre = self._product(given, mean * self.unit).clamp(-largest, largest)
        spread = self._product(given**2, variance * self.unit**2)
        spread = spread + (converter.noise**2 + converter.step**2 / 12) * unit**2
        shift = factor.mean * centre - self._product(given, self.stored.decode())
        unequal = max(factor.square - factor.mean**2, 0.0) * centre**2
        return shift, shift**2 + factor.square * spread + unequal


def _pair(given: tuple[int, ...], first: int) -> tuple[int, int]:
    """Of two axes; of one, with `first` for the one before it."""
    one, two = given if len(given) == 2 else (first, *given)
    return one, two
