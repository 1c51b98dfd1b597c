"""AMD Quark's operators in ONNX Runtime: how Ryzen AI's tools round inputs.

Weights are stored and decoded as for every engine of ONNX, or rounded when the model
runs, as Quark writes them (`quark@exported`); inputs go through
`com.amd.quark::MXQuantizeDequantize`, or `BFPQuantizeDequantize` for BFP16, from the
library that Quark compiles. Its packages do not go with others, so it lives in an
environment of its own: `quantharness setup quark`.
"""

from __future__ import annotations

from importlib.metadata import version
from typing import TYPE_CHECKING, Any, ClassVar, Final, Literal

import numpy as np

from harness.backends.apart import probe_from_outside
from harness.backends.onnx_build import support
from harness.backends.onnx_session import Settings
from harness.backends.onnxruntime_backend import OnnxRuntimeBackend
from harness.backends.protocol import Availability, Session, Support, Variant
from harness.environments import is_inside
from harness.errors import UnsupportedError
from harness.models.types import Model, Operator
from harness.numerics import find_format
from harness.schemes.apply import block_size
from harness.schemes.onnx_nodes import Nodes
from harness.schemes.onnx_weights import store_weight
from harness.schemes.types import Scheme, TensorScheme

if TYPE_CHECKING:
    from harness.schemes.onnx_model import QuantizedModel

ENVIRONMENT: Final = "quark"
DOMAIN: Final = "com.amd.quark"
#: Round half to even, of the numbers that Quark gives its rounding modes.
_HALF_TO_EVEN: Final = 2
#: The element of BFP16, which has an operator of its own.
_BFP: Final = "fp8_e1m6"
#: Elements that its operators round to.
_ELEMENTS: Final = frozenset(
    {"fp8_e4m3", "fp8_e5m2", "fp6_e3m2", "fp6_e2m3", "fp4_e2m1", _BFP}
)
#: Bits that Quark counts in a number of BFP16: eight of them are the block's exponent.
_BFP_BITS: Final = 16


class QuarkBackend(OnnxRuntimeBackend):
    """ONNX Runtime's CPU provider with Quark's custom operators.

    Args:
        precision: of an unquantized model.
        name: registered under it.
        weights: "stored" as codes; or "rounded" from float32 by Quark's operators when
            the model runs, which is how Quark's own quantizer writes a model.
    """

    variants: ClassVar = {
        "exported": Variant(
            summary="weights in float32, rounded by Quark's operators when it runs",
            options={"weights": "rounded"},
        )
    }
    own_environment: ClassVar = ENVIRONMENT

    def __init__(
        self,
        precision: str = "fp32",
        *,
        name: str = "quark",
        weights: Literal["stored", "rounded"] = "stored",
    ) -> None:
        super().__init__(precision, name=name)
        self.weights = weights

    def probe(self) -> Availability:
        """Whether its environment was made; inside it, whether Quark works."""
        if not is_inside(ENVIRONMENT):
            return probe_from_outside(ENVIRONMENT, "amd-quark", "cpu")
        try:
            self._load_library()
        except Exception as error:  # noqa: BLE001 - a broken install must not raise here
            return Availability(available=False, reason=f"does not load: {error}")
        return Availability(available=True, version=version("amd-quark"), device="cpu")

    def supports(self, model: Model, scheme: Scheme) -> Support:
        """Whether inputs are quantized, to MX or BFP16, with the OCP scale rule."""
        reason = _lacks(scheme.activations) if scheme.activations else ""
        if self.weights == "rounded" and scheme.checkpoint:
            reason = "a checkpoint's codes are stored, not rounded"
        elif self.weights == "rounded" and scheme.weights is not None:
            reason = reason or _lacks(scheme.weights)
        elif scheme.activations is None:
            reason = "no input is quantized: nothing of Quark would run"
        if reason:
            return Support(supported=False, reason=f"quark: {reason}")
        return support(model, scheme, quantize_input)

    def load(self, model: Model, scheme: Scheme | None) -> Session:
        """Load Quark's library, build and load the model.

        Raises:
            UnsupportedError: the format or a kernel is not there.
            BackendError: the model does not load.
        """
        self._load_library()
        return super().load(model, scheme)

    def build(self, model: Model, scheme: Scheme) -> QuantizedModel:
        """The ONNX model that a scheme becomes here.

        Raises:
            UnsupportedError: the format has no expression.
        """
        from harness.schemes.onnx_qdq import build

        built = build(
            model.onnx(),
            scheme,
            quantize_input=quantize_input,
            store_weight=round_weight if self.weights == "rounded" else store_weight,
        )
        built.proto.opset_import.add(domain=DOMAIN, version=1)
        return built

    def _load_library(self) -> None:
        """Compile (once) and find the library of operators."""
        from quark.onnx import get_library_path

        library: Any = get_library_path("CPU")
        self.settings = Settings(libraries=(str(library),))


def _lacks(tensor: TensorScheme) -> str:
    """Why Quark's operators do not round to it; empty: they do."""
    fmt = find_format(tensor.format)
    rule = tensor.rule or fmt.rule
    if fmt.scale != "fp8_e8m0" or fmt.element not in _ELEMENTS:
        return f"Quark's operators round to MX and BFP16, not to {fmt.name}"
    return "" if rule == "floor" else f"its scale rule is OCP's floor, not {rule}"


def quantize_input(nodes: Nodes, operator: Operator, scheme: Scheme, x: str) -> str:
    """One operator of Quark's; returns the decoded tensor's name.

    Raises:
        UnsupportedError: a granularity that it does not have.
    """
    assert scheme.activations is not None  # sanity check
    # Along what is multiplied and added: the last axis, a convolution's channels.
    axis = -1 if operator.kind == "linear" else 1
    return _round(nodes, scheme.activations, x, axis)


def round_weight(
    nodes: Nodes, operator: Operator, scheme: Scheme, *, transposed: bool
) -> str:
    """The weight in float32 and one operator of Quark's, along its input channels.

    Raises:
        UnsupportedError: a granularity that it does not have.
    """
    assert scheme.weights is not None  # sanity check
    weight = np.asarray(operator.weight, np.float32)
    values = np.ascontiguousarray(weight.T if transposed else weight)
    name = nodes.constant(values, "weight_codes")
    return _round(nodes, scheme.weights, name, 0 if transposed else 1)


def _round(nodes: Nodes, tensor: TensorScheme, x: str, axis: int) -> str:
    if tensor.granularity != "block":
        raise UnsupportedError(f"granularity {tensor.granularity} in Quark's operators")
    element = find_format(tensor.format).element
    if element == _BFP:
        kind = "BFPQuantizeDequantize"
        rounds_to: dict[str, Any] = {"bfp_method": "to_bfp", "bit_width": _BFP_BITS}
    else:
        kind = "MXQuantizeDequantize"
        rounds_to = {"element_dtype": element, "scale_dtype": "e8m0"}
    return nodes.add(
        kind,
        [x],
        domain=DOMAIN,
        axis=axis,
        block_size=block_size(tensor),
        rounding_mode=_HALF_TO_EVEN,
        **rounds_to,
    )
