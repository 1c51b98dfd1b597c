"""torchao: the module that `quantize_` leaves, run by torchao's own kernels.

It runs what torchao itself made of the model, so a scheme names one of its
configurations as `quantizer`; the oracle has the codes and scales that were made.
"""

from __future__ import annotations

import dataclasses
from importlib.metadata import version
from typing import ClassVar

from harness.backends import installed
from harness.backends.protocol import (
    Arithmetic,
    Artifact,
    Availability,
    QuantizedTensor,
    Support,
    Variant,
)
from harness.backends.torch_backend import TorchBackend
from harness.backends.torch_session import TorchSession
from harness.errors import UnsupportedError
from harness.models.types import Model
from harness.schemes.apply import plan
from harness.schemes.torchao_configs import (
    CONFIGS,
    dtype_of,
    is_torchao,
    quantize_module,
    stored_weight_of,
)
from harness.schemes.types import Scheme


class TorchaoBackend(TorchBackend):
    """A torch module after `torchao.quantization.quantize_`.

    Args:
        precision: of an unquantized model: "fp16", "fp32" or "fp64".
        device: None: CUDA when there is a device, else the CPU.
        name: registered under it.
    """

    variants: ClassVar[dict[str, Variant]] = {}

    def __init__(
        self,
        precision: str = "fp16",
        device: str | None = None,
        *,
        name: str = "torchao",
    ) -> None:
        super().__init__(precision, device, name=name)

    def probe(self) -> Availability:
        """Whether torch and torchao are installed, and on what they would run."""
        found = super().probe()
        if not found.available:
            return found
        reason = installed.reason_against("torchao", "torchao")
        if reason:
            return Availability(available=False, reason=reason)
        return dataclasses.replace(found, version=version("torchao"))

    def supports(self, model: Model, scheme: Scheme) -> Support:  # noqa: ARG002
        """Whether the scheme is one of torchao's own configurations."""
        if not is_torchao(scheme):
            known = ", ".join(CONFIGS)
            return Support(
                supported=False,
                reason="torchao runs what it quantized itself: a scheme with "
                f'`quantizer = "torchao:CONFIG"`, CONFIG one of {known}',
            )
        return Support(supported=True)

    def load(self, model: Model, scheme: Scheme | None) -> TorchSession:
        """Build the module and let torchao quantize it.

        Raises:
            UnsupportedError: torchao refuses the model or this device.
        """
        import torch

        if scheme is None:
            return super().load(model, None)
        dtype = getattr(torch, dtype_of(scheme))
        device = self._device()
        module = model.module().eval().to(device=device, dtype=dtype)
        plans = plan(scheme, model.operators())
        quantized = [name for name, entry in plans.items() if entry.weights]
        try:
            quantize_module(module, quantized, scheme)
        except Exception as error:  # noqa: BLE001 - assertions name what it lacks
            text = " ".join(str(error).split())[:300]
            raise UnsupportedError(f"torchao: {text}") from None
        return TorchaoSession(module, device, dtype, list(plans), scheme)


class TorchaoSession(TorchSession):
    """A module whose linear layers hold torchao's tensors."""

    def _quantized(self) -> dict[str, object]:
        """Operator -> its weight, where it is one of torchao's tensors."""
        weights = {
            name: self._module.get_submodule(name).weight for name in self._operators
        }
        return {
            name: weight for name, weight in weights.items() if hasattr(weight, "qdata")
        }

    def arithmetic(self) -> Arithmetic:
        """What torchao's tensors multiply with: codes, or decoded values in fp32."""
        assert self._scheme is not None  # sanity check
        kinds = sorted({type(weight).__name__ for weight in self._quantized().values()})
        inputs = self._scheme.activations
        native = inputs is not None and inputs.granularity != "block"
        narrow = "bf16" if dtype_of(self._scheme) == "bfloat16" else "fp32"
        return Arithmetic(
            accumulate="fp32",
            # What MX decodes to has few bits, so bfloat16 holds it exactly.
            operands="fp32",
            output=narrow,
            execution="native" if native else "emulated",
            detail=f"torchao's {', '.join(kinds)}; "
            + ("codes are multiplied" if native else f"decoded, {narrow} arithmetic"),
        )

    def artifact(self) -> Artifact:
        """Weights as torchao decodes them; which of its tensors round inputs."""
        import torch

        weights, rounded = {}, []
        for name, weight in self._quantized().items():
            stored = stored_weight_of(weight, name)
            decoded = weight.dequantize()  # type: ignore[attr-defined]
            weights[name] = QuantizedTensor(
                format=stored.format,
                stored_as=type(weight).__name__,
                scales=stored.scales,
                decoded=decoded.to(torch.float32).cpu().numpy(),
                nbytes=len(stored.pack()) + stored.scales.nbytes,
            )
            if getattr(weight, "act_quant_kwargs", None) is not None:
                rounded.append(name)
        untouched = {}
        for name in self._operators:
            if name not in weights:
                plain = self._module.get_submodule(name).weight.detach()
                untouched[name] = plain.to(torch.float32).cpu().numpy()
        return Artifact(weights=weights, activations=rounded, untouched=untouched)
