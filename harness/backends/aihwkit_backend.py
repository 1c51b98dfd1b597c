"""IBM's aihwkit: analog in-memory computing, simulated by those who build it.

Linear layers and convolutions become what its `convert_to_analog` makes of them:
crossbars of phase-change memory, programmed with noise, drifting, their drift
compensated. The scheme says what the weights' targets are and what the converters of
the inputs give; everything else is aihwkit's. It is compiled from its source, in an
environment of its own: `quantharness setup aihwkit`.
"""

from __future__ import annotations

import dataclasses
from importlib.metadata import version
from typing import TYPE_CHECKING, ClassVar, Final

from harness.backends.analog_backend import AnalogBackend, AnalogSession
from harness.backends.apart import probe_from_outside
from harness.backends.protocol import Artifact, Availability, Support
from harness.backends.torch_session import TorchSession
from harness.environments import is_inside
from harness.errors import BackendError
from harness.models.types import Model, Operator
from harness.schemes.apply import OperatorPlan, plan
from harness.schemes.types import Scheme

if TYPE_CHECKING:
    import torch

    from harness.backends.aihwkit_layer import AihwkitLayer

ENVIRONMENT: Final = "aihwkit"
#: The first measurement after programming, an hour, a day.
_AGES: Final = (25.0, 3600.0, 86400.0)


class AihwkitSession(AnalogSession):
    """A module on aihwkit's crossbars."""

    simulator: ClassVar = "aihwkit's PCM-like crossbars"
    ages: ClassVar[tuple[float, ...]] = _AGES

    def artifact(self) -> Artifact:
        """Weights as the crossbars hold them, to be programmed, not as we do."""
        from harness.backends.aihwkit_layer import AihwkitLayer

        found = super().artifact()
        weights = dict(found.weights)
        for name, layer in self._layers().items():
            assert isinstance(layer, AihwkitLayer)  # sanity check
            shown = layer.reference().detach().numpy()
            weights[name] = dataclasses.replace(weights[name], decoded=shown)
        return dataclasses.replace(found, weights=weights)


class AihwkitBackend(AnalogBackend):
    """INT8 schemes on aihwkit's torch tile, on the CPU.

    Args:
        name: registered under it; another configuration needs another name.
        precision: of an unquantized model, which runs on no crossbar.
        compensated: whether `GlobalDriftCompensation` is used.
        programming: `prog_noise_scale`; 1 is as measured.
        drift: `drift_scale`; 1 is as measured.
        read: `read_noise_scale`; 1 is as measured.
        noise: standard deviation of the outputs' noise, in units of the largest input
            times the largest weight. aihwkit's default, 0.06, is meant for models that
            were trained to bear it; a third of it is taken, as by `analog`.
        bound: range of the outputs' converters in the same unit; aihwkit's default.
        lot: of another lot come other devices from the same seeds.

    Whatever is not its default but `lot` is a device that is not what it declares to
    be: to be found by the judge.
    """

    session: ClassVar[type[TorchSession]] = AihwkitSession
    own_environment: ClassVar = ENVIRONMENT

    def __init__(
        self,
        precision: str = "fp16",
        *,
        name: str = "aihwkit",
        compensated: bool = True,
        programming: float = 1.0,
        drift: float = 1.0,
        read: float = 1.0,
        noise: float = 0.02,
        bound: float = 12.0,
        lot: int = 0,
    ) -> None:
        super().__init__(
            precision,
            name=name,
            compensated=compensated,
            programming=programming,
            drift=drift,
            read=read,
            lot=lot,
        )
        self.noise = noise
        self.bound = bound

    def probe(self) -> Availability:
        """Whether its environment was made; inside it, whether aihwkit works."""
        if not is_inside(ENVIRONMENT):
            return probe_from_outside(ENVIRONMENT, "aihwkit", "cpu")
        try:
            import aihwkit.nn.conversion  # noqa: F401
        except Exception as error:  # noqa: BLE001 - a broken install must not raise here
            return Availability(available=False, reason=f"does not import: {error}")
        return Availability(available=True, version=version("aihwkit"), device="cpu")

    def supports(self, model: Model, scheme: Scheme) -> Support:
        """Whether the scheme is one of crossbars, and aihwkit has the layers."""
        found = super().supports(model, scheme)
        if not found.supported:
            return found
        operators = model.operators()
        plans = plan(scheme, operators)
        lacks = {o.name: _lacks(o) for o in operators if plans[o.name].weights}
        lacks = {name: reason for name, reason in lacks.items() if reason}
        if lacks:
            first = next(iter(lacks.values()))
            return Support(supported=False, reason=f"aihwkit: {first}", operators=lacks)
        return found

    def load(self, model: Model, scheme: Scheme | None) -> TorchSession:
        """Convert every layer that the scheme quantizes.

        Raises:
            UnsupportedError: a format or layer that it does not have.
            BackendError: aihwkit is not in this process.
        """
        try:
            import aihwkit.nn.conversion  # noqa: F401
        except ImportError as error:
            raise BackendError(
                f"{self.name}: {error}; `quantharness setup {ENVIRONMENT}` makes the "
                "environment that its worker runs in"
            ) from None
        return super().load(model, scheme)

    def quantized_layer(
        self,
        layer: torch.nn.Module,
        operator: Operator,
        scheme: Scheme,
        plan: OperatorPlan,
    ) -> AihwkitLayer:
        """The layer on a crossbar."""
        from harness.backends.aihwkit_device import Converter
        from harness.backends.aihwkit_layer import AihwkitLayer, Hardware
        from harness.backends.analog_device import Cells

        cells = Cells(programming=self.programming, drift=self.drift, read=self.read)
        hardware = Hardware(
            cells=cells,
            converter=Converter(noise=self.noise, bound=self.bound),
            compensated=self.compensated,
        )
        return AihwkitLayer(layer, operator, scheme, plan, hardware, lot=self.lot)


def _lacks(operator: Operator) -> str:
    """Why aihwkit has no crossbar for a layer; empty: it has."""
    if operator.kind == "linear":
        return ""
    if operator.groups != 1:
        return f"convolutions of {operator.groups} groups are on no crossbar"
    if any(before != after for before, after in operator.padding):
        return "padding of unequal ends"
    return ""
