"""A simulated analog in-memory computer: every run differs, and time passes.

The torch module with its linear layers and convolutions on crossbars of phase-change
memory (`analog_device`, `analog_layer`); everything else in float32. It needs no
hardware: it is there so that noisy hardware can be judged, and the judging tested.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar, Final

import numpy as np

from harness.backends.protocol import Arithmetic, Support
from harness.backends.torch_backend import TorchBackend
from harness.backends.torch_session import TorchSession
from harness.errors import BackendError
from harness.models.types import Model, Operator
from harness.schemes.apply import OperatorPlan
from harness.schemes.types import Scheme

if TYPE_CHECKING:
    import torch

    from harness.backends.analog_crossbar import CrossbarLayer
    from harness.backends.analog_layer import Crossbar

Array = np.ndarray[Any, np.dtype[Any]]

#: Programmed just now; an hour, a month later.
_AGES: Final = (0.0, 3600.0, 30 * 86400.0)


class AnalogSession(TorchSession):
    """A module on crossbars."""

    #: What simulates them, and seconds after programming at which they are looked at.
    simulator: ClassVar = "simulated phase-change memory"
    ages: ClassVar[tuple[float, ...]] = _AGES

    def arithmetic(self) -> Arithmetic:
        """Noise in every run, and another mean as time goes by."""
        found = super().arithmetic()
        if self._scheme is None:
            return found
        layers = len(self._layers())
        return dataclasses.replace(
            found,
            detail=f"{layers} layers on {self.simulator}",
            determinism="drifts",
            ages=self.ages,
        )

    def draw(self, seed: int, *, age: float) -> None:
        """Become the device of this seed, `age` seconds after it was programmed.

        Raises:
            BackendError: the session is closed, or the age is negative.
        """
        if self._module is None or not age >= 0:
            raise BackendError(
                f"analog: closed={self._module is None}, age={age:g} s, but should be "
                "open and at least 0"
            )
        for index, layer in enumerate(self._crossbars().values()):
            seeds = np.random.SeedSequence([seed, index, layer.lot])
            layer.program(int(seeds.generate_state(1, np.uint64)[0] >> 1), age)

    def expected_error(self, operator: str, x: Array) -> tuple[Array, Array]:
        """What the device declares: mean and mean square, float32, as the output.

        Args:
            operator: one that is quantized.
            x: its input before any quantization.
        """
        import torch

        with torch.inference_mode():
            given = torch.from_numpy(np.ascontiguousarray(x))
            mean, square = self._crossbars()[operator].expected_error(given)
        return mean.numpy(), square.numpy()

    def _crossbars(self) -> dict[str, CrossbarLayer]:
        from harness.backends.analog_crossbar import CrossbarLayer

        layers = self._layers().items()
        return {n: layer for n, layer in layers if isinstance(layer, CrossbarLayer)}


class AnalogBackend(TorchBackend):
    """INT8 schemes on crossbars, on the CPU.

    Args:
        name: registered under it; another configuration needs another name.
        precision: of an unquantized model, which runs on no crossbar.
        compensated: whether drift is compensated by one factor a layer.
        programming: strength of programming noise; 1 is as measured.
        drift: strength of drift; 1 is as measured.
        read: strength of read noise; 1 is as measured.
        dead: operator -> columns that give nothing.
        scale: operator -> factor on its outputs.
        shift: operator -> added to its outputs, in units of the largest input times
            the largest weight.
        lot: of another lot come other devices from the same seeds.

    Whatever is not its default but `lot` is a device that is not what it declares to
    be: to be found by the judge.
    """

    session: ClassVar[type[TorchSession]] = AnalogSession
    #: What a crossbar computes does not depend on the processor that simulates it.
    variants: ClassVar = {}

    def __init__(
        self,
        precision: str = "fp16",
        *,
        name: str = "analog",
        compensated: bool = True,
        programming: float = 1.0,
        drift: float = 1.0,
        read: float = 1.0,
        dead: Mapping[str, tuple[int, ...]] | None = None,
        scale: Mapping[str, float] | None = None,
        shift: Mapping[str, float] | None = None,
        lot: int = 0,
    ) -> None:
        super().__init__(precision, "cpu", name=name)
        self.compensated = compensated
        self.programming = programming
        self.drift = drift
        self.read = read
        self.dead = dict(dead or {})
        self.scale = dict(scale or {})
        self.shift = dict(shift or {})
        self.lot = lot

    def supports(self, model: Model, scheme: Scheme) -> Support:
        """Whether weights are INT8, a scale a channel or tensor, and inputs INT8."""
        for what in (scheme.weights, scheme.activations):
            if what is not None and (what.format != "int8" or what.block):
                reason = f"{what.format} in blocks" if what.block else what.format
                reason = f"{reason} is no target of a crossbar's converters: int8 is"
                names = {operator.name: reason for operator in model.operators()}
                return Support(supported=False, reason=reason, operators=names)
        if scheme.kv_cache is not None:
            return Support(supported=False, reason="keys and values are not analog")
        if scheme.outputs is not None:
            reason = "its converters hand results on as they are: no `outputs`"
            return Support(supported=False, reason=reason)
        return super().supports(model, scheme)

    def quantized_layer(
        self,
        layer: torch.nn.Module,
        operator: Operator,
        scheme: Scheme,
        plan: OperatorPlan,
    ) -> CrossbarLayer:
        """The layer on a crossbar."""
        from harness.backends.analog_layer import AnalogLayer

        return AnalogLayer(
            layer, operator, scheme, plan, self._crossbar(), lot=self.lot
        )

    def _crossbar(self) -> Crossbar:
        from harness.backends.analog_device import Cells
        from harness.backends.analog_layer import Crossbar, Faults

        faults = Faults(dead=self.dead, scale=self.scale, shift=self.shift)
        cells = Cells(programming=self.programming, drift=self.drift, read=self.read)
        return Crossbar(cells=cells, compensated=self.compensated, faults=faults)
