"""One vendor's engine as a quantharness backend: FP8 E4M3, scales a channel and a row.

The engine here is a torch module whose layers hold FP8 codes. Yours takes its place in
`Fp8Layer`; the rest is what quantharness asks for.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

import ml_dtypes
import numpy as np
import torch

from harness.backends.protocol import (
    Arithmetic,
    Artifact,
    Availability,
    Outputs,
    QuantizedTensor,
    Support,
)
from harness.errors import BackendError
from harness.models.types import Model
from harness.schemes.types import Scheme, TensorScheme

Array = np.ndarray[Any, np.dtype[Any]]
LARGEST = np.float32(448)
WEIGHTS = TensorScheme(format="fp8_e4m3", granularity="channel")
INPUTS = TensorScheme(format="fp8_e4m3", granularity="row")


def encode(x: Array, axis: tuple[int, ...]) -> tuple[Array, Array]:
    """FP8 codes and float32 scales along `axis`; your engine's quantizer."""
    amax = np.abs(x).max(axis=axis, keepdims=True)
    scale = np.where(amax == 0, np.float32(1), amax / LARGEST).astype(np.float32)
    # NaN has a code of its own; ml_dtypes gives NaN beyond the range, so clip first.
    clipped = np.clip(x / scale, -LARGEST, LARGEST)
    return clipped.astype(ml_dtypes.float8_e4m3fn), scale


def decode(codes: Array, scale: Array) -> Array:
    """float32 values."""
    return np.asarray(codes.astype(np.float32) * scale)


class Fp8Layer(torch.nn.Module):
    """A Linear or convolution with FP8 weights; `inputs`: its inputs become FP8 too."""

    def __init__(self, layer: torch.nn.Module, *, inputs: bool) -> None:
        super().__init__()
        weight = layer.weight.detach().numpy()
        self.codes, self.scale = encode(weight, tuple(range(1, weight.ndim)))
        self.inputs = inputs
        self.layer = layer
        layer.weight.data = torch.from_numpy(decode(self.codes, self.scale))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """The layer's output, float32."""
        if self.inputs:
            # A row of a linear layer is one vector; of a convolution one sample.
            linear = isinstance(self.layer, torch.nn.Linear)
            axis = (-1,) if linear else tuple(range(1, x.ndim))
            x = torch.from_numpy(decode(*encode(x.numpy(), axis)))
        return self.layer(x)


class VendorBackend:
    """What quantharness asks for."""

    name = "vendor"

    def probe(self) -> Availability:
        """Whether it can be used here; never raises."""
        return Availability(available=True, version="0.1", device="cpu")

    def supports(self, model: Model, scheme: Scheme) -> Support:  # noqa: ARG002
        """FP8 E4M3 weights, with inputs a row or as they are."""
        if scheme.weights != WEIGHTS or scheme.activations not in (None, INPUTS):
            return Support(supported=False, reason=f"{scheme.name} is not FP8 by rows")
        return Support(supported=True)

    def load(self, model: Model, scheme: Scheme | None) -> VendorSession:
        """Quantize the model's layers; None: as it is."""
        module = model.module().eval()
        for operator in model.operators() if scheme is not None else ():
            layer = module.get_submodule(operator.name)
            quantized = Fp8Layer(layer, inputs=scheme.activations is not None)
            module.set_submodule(operator.name, quantized)
        return VendorSession(module, [operator.name for operator in model.operators()])


class VendorSession:
    """A loaded model."""

    def __init__(self, module: torch.nn.Module, operators: list[str]) -> None:
        self._module = module
        self._operators = operators
        self._seen: dict[str, Array] = {}
        self._closed = False
        for name in operators:
            module.get_submodule(name).register_forward_hook(self._hook(name))

    def _hook(self, name: str) -> Any:
        def observe(_: Any, inputs: tuple[torch.Tensor, ...], y: torch.Tensor) -> None:
            self._seen[f"{name}/input"] = inputs[0].numpy().copy()
            self._seen[name] = y.numpy().copy()

        return observe

    def run(
        self, inputs: Mapping[str, Array], *, capture: Collection[str] = ()
    ) -> Outputs:
        """Run once; arrays are the caller's own."""
        if self._closed or set(capture) - set(self._operators):
            raise BackendError(f"vendor: closed={self._closed}, capture={capture}")
        feeds = {name: torch.from_numpy(array) for name, array in inputs.items()}
        with torch.inference_mode():
            found = self._module(**feeds)
        arrays = {name: y.numpy().copy() for name, y in found.items()}
        for name in capture:
            arrays |= {key: self._seen[key] for key in (name, f"{name}/input")}
        return Outputs(arrays)

    def close(self) -> None:
        """Free what it holds."""
        self._closed = True

    def arithmetic(self) -> Arithmetic:
        """Sums in float32."""
        return Arithmetic(execution="emulated", detail="FP8 codes decoded to float32")

    def artifact(self) -> Artifact:
        """The codes and scales that the layers hold."""
        layers = {name: self._module.get_submodule(name) for name in self._operators}
        held = {name: x for name, x in layers.items() if isinstance(x, Fp8Layer)}
        weights = {
            name: QuantizedTensor(
                format="fp8_e4m3",
                stored_as=str(layer.codes.dtype),
                scales=layer.scale,
                decoded=decode(layer.codes, layer.scale),
                nbytes=layer.codes.nbytes + layer.scale.nbytes,
            )
            for name, layer in held.items()
        }
        rounded = [name for name, layer in held.items() if layer.inputs]
        return Artifact(weights=weights, activations=rounded)


def register(registry: Any) -> None:
    """For `--plugin`."""
    registry.add_backend(VendorBackend())
