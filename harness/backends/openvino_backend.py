"""OpenVINO on the CPU: the ONNX model that ONNX Runtime gets too, run as users do.

`openvino` is its default configuration. On processors with bfloat16 that is inference
in bfloat16, whatever the graph says, and inputs of INT8 weights are quantized to INT8
in groups of 32. `openvino@f32` is pinned to float32 with neither. With `@compressed`
weights of 4 bits are in OpenVINO's own types, as its weight compression writes them.
"""

from __future__ import annotations

from collections.abc import Mapping
from importlib.metadata import version
from typing import TYPE_CHECKING, Any, Final

from harness.backends import installed
from harness.backends.onnx_build import support, unquantized
from harness.backends.onnx_language import with_cache
from harness.backends.openvino_compressed import reason_against
from harness.backends.openvino_model import PINNED, reads
from harness.backends.openvino_session import CompressedSession, OpenVinoSession
from harness.backends.protocol import (
    Availability,
    Finding,
    Session,
    Support,
    Variant,
)
from harness.errors import UnsupportedError
from harness.models.types import Model
from harness.numerics import find_format
from harness.schemes.onnx_activations import FP8_TYPES
from harness.schemes.types import Scheme

if TYPE_CHECKING:
    from harness.schemes.onnx_model import QuantizedModel

_HINTS: Final = {"fp32": "f32", "bf16": "bf16", "fp16": "f16"}


class OpenVinoBackend:
    """OpenVINO's CPU plugin.

    Args:
        precision: of an unquantized model: "fp32", "bf16" or "fp16".
        name: registered under it.
        config: properties of the plugin; none is what users run.
        compressed: hold weights in blocks as OpenVINO's weight compression does,
            instead of decoding them by nodes of ONNX.
    """

    variants: Final = {
        "f32": Variant(
            summary="float32 inference, no dynamic quantization of inputs",
            options={"config": PINNED},
        ),
        "compressed": Variant(
            summary="4-bit weights in OpenVINO's own types, default configuration",
            options={"compressed": True},
        ),
        "compressed_f32": Variant(
            summary="4-bit weights in OpenVINO's own types, float32 inference",
            options={"compressed": True, "config": PINNED},
        ),
    }

    def __init__(
        self,
        precision: str = "fp32",
        *,
        name: str = "openvino",
        config: Mapping[str, Any] | None = None,
        compressed: bool = False,
    ) -> None:
        self.name = name
        self.precision = precision
        self.config = dict(config or {})
        self.compressed = compressed

    def probe(self) -> Availability:
        """Whether openvino and onnx are installed, and the processor's name."""
        reason = installed.reason_against("openvino", "openvino", "onnx")
        if reason:
            return Availability(available=False, reason=reason)
        try:
            import openvino

            device = openvino.Core().get_property("CPU", "FULL_DEVICE_NAME")
        except Exception as error:  # noqa: BLE001 - a broken install must not raise here
            return Availability(available=False, reason=f"does not import: {error}")
        return Availability(
            available=True, version=version("openvino"), device=f"cpu {device}"
        )

    def supports(self, model: Model, scheme: Scheme) -> Support:
        """Whether ONNX operators and types that OpenVINO reads express the scheme."""
        reason = reason_against(scheme) if self.compressed else ""
        if reason:
            return Support(supported=False, reason=f"{self.name}: {reason}")
        found = support(model, scheme)
        if not found.supported:
            return found
        for tensor in (scheme.weights, scheme.activations):
            if tensor is None:
                continue
            fmt = find_format(tensor.format)
            for name in (fmt.element or fmt.name, fmt.scale):
                reason = reads(FP8_TYPES[name]) if name in FP8_TYPES else ""
                if reason:
                    names = {operator.name: reason for operator in model.operators()}
                    return Support(supported=False, reason=reason, operators=names)
        return found

    def preflight(self, model: Model) -> list[Finding]:
        """What OpenVINO's reader and its CPU plugin say about the model."""
        from harness.backends.onnx_preflight import dynamic_inputs
        from harness.backends.openvino_model import query

        proto = model.onnx()
        return [
            *query(proto.SerializeToString(), self.config),
            *dynamic_inputs(proto, model.batch_axes),
        ]

    def load(self, model: Model, scheme: Scheme | None) -> Session:
        """Build and compile.

        Raises:
            UnsupportedError: an operator, type or format that OpenVINO does not have.
            BackendError: the model does not compile.
        """
        if scheme is None:
            if self.precision not in _HINTS:
                raise UnsupportedError(
                    f"openvino does not run models in {self.precision}"
                )
            pinned = PINNED | {"INFERENCE_PRECISION_HINT": _HINTS[self.precision]}
            plain = unquantized(model)
            return with_cache(OpenVinoSession(plain, pinned), plain.proto)
        return self.open_built(self.build(model, scheme), scheme)

    def build(self, model: Model, scheme: Scheme) -> QuantizedModel:
        """The ONNX model that a scheme becomes here.

        Raises:
            UnsupportedError: the format has no expression.
        """
        from harness.schemes.onnx_qdq import build

        return build(model.onnx(), scheme, contributed=not self.compressed)

    def open_built(self, built: QuantizedModel, scheme: Scheme) -> Session:
        """Compile a model that was built already.

        Raises:
            BackendError: the model does not compile.
        """
        kind = CompressedSession if self.compressed else OpenVinoSession
        session = kind(built, self.config, scheme)
        return with_cache(session, built.proto)
