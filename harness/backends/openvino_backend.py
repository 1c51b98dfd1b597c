"""OpenVINO on the CPU: the ONNX model that ONNX Runtime gets too, run as users do.

`openvino` is its default configuration. On processors with bfloat16 that is inference
in bfloat16, whatever the graph says, and inputs of INT8 weights are quantized to INT8
in groups of 32. `openvino@f32` is pinned to float32 with neither.
"""

from __future__ import annotations

import dataclasses
import importlib.util
import time
from collections import Counter
from collections.abc import Collection, Mapping
from importlib.metadata import version
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from harness.backends.onnx_artifact import read_artifact
from harness.backends.onnx_build import support, unquantized, with_outputs
from harness.backends.onnx_language import with_cache
from harness.backends.openvino_model import (
    compile_model,
    constants,
    line,
    precision_of,
    products,
    reads,
)
from harness.backends.protocol import (
    Arithmetic,
    Artifact,
    Availability,
    Finding,
    Outputs,
    Session,
    Support,
    Variant,
)
from harness.errors import BackendError, MissingExtraError, UnsupportedError
from harness.models.types import Model
from harness.numerics import find_format
from harness.schemes.onnx_activations import FP8_TYPES
from harness.schemes.types import Scheme

if TYPE_CHECKING:
    import onnx
    import openvino

    from harness.schemes.onnx_model import QuantizedModel

Array = np.ndarray[Any, np.dtype[Any]]

#: Models that show operators, at a time.
_KEPT: Final = 2

_HINTS: Final = {"fp32": "f32", "bf16": "bf16", "fp16": "f16"}
#: float32 arithmetic, and inputs left as they are.
_PINNED: Final = {
    "INFERENCE_PRECISION_HINT": "f32",
    "DYNAMIC_QUANTIZATION_GROUP_SIZE": 0,
}


class OpenVinoBackend:
    """OpenVINO's CPU plugin.

    Args:
        precision: of an unquantized model: "fp32", "bf16" or "fp16".
        name: registered under it.
        config: properties of the plugin; none is what users run.
    """

    variants: Final = {
        "f32": Variant(
            summary="float32 inference, no dynamic quantization of inputs",
            options={"config": _PINNED},
        )
    }

    def __init__(
        self,
        precision: str = "fp32",
        *,
        name: str = "openvino",
        config: Mapping[str, Any] | None = None,
    ) -> None:
        self.name = name
        self.precision = precision
        self.config = dict(config or {})

    def probe(self) -> Availability:
        """Whether openvino and onnx are installed, and the processor's name."""
        for package in ("openvino", "onnx"):
            if importlib.util.find_spec(package) is None:
                error = MissingExtraError(package, "openvino")
                return Availability(available=False, reason=str(error))
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
            pinned = _PINNED | {"INFERENCE_PRECISION_HINT": _HINTS[self.precision]}
            plain = unquantized(model)
            return with_cache(OpenVinoSession(plain, pinned), plain.proto)
        return self.open_built(self.build(model, scheme), scheme)

    def build(self, model: Model, scheme: Scheme) -> QuantizedModel:
        """The ONNX model that a scheme becomes here.

        Raises:
            UnsupportedError: the format has no expression.
        """
        from harness.schemes.onnx_qdq import build

        return build(model.onnx(), scheme)

    def open_built(self, built: QuantizedModel, scheme: Scheme) -> Session:
        """Compile a model that was built already.

        Raises:
            BackendError: the model does not compile.
        """
        session = OpenVinoSession(built, self.config, scheme)
        return with_cache(session, built.proto)


class OpenVinoSession:
    """A compiled model.

    Args:
        built: the model and where its operators are.
        config: properties of the plugin.
        scheme: None for the reference.
    """

    def __init__(
        self,
        built: QuantizedModel,
        config: Mapping[str, Any],
        scheme: Scheme | None = None,
    ) -> None:
        self._built = built
        self._config = dict(config)
        self._scheme = scheme
        self._bytes = built.proto.SerializeToString()
        self._outputs = [value.name for value in built.proto.graph.output]
        self._inputs = [value.name for value in built.proto.graph.input]
        self._plain = compile_model(self._bytes, self._config)
        self._capturing: dict[tuple[str, ...], openvino.CompiledModel] = {}
        self._closed = False

    def run(
        self, inputs: Mapping[str, Array], *, capture: Collection[str] = ()
    ) -> Outputs:
        """Run once; with captures, in the model that shows them.

        Raises:
            BackendError: closed, an input is missing, or OpenVINO refuses them.
        """
        missing = sorted(set(self._inputs) - set(inputs))
        if self._closed or missing:
            raise BackendError(
                f"openvino: the session is closed={self._closed}, inputs missing="
                f"{missing}, but should be open with inputs {self._inputs}"
            )
        feeds = {name: np.ascontiguousarray(inputs[name]) for name in self._inputs}
        names = tuple(capture)
        tensors = {t for name in names for t in self._built.observed[name]} - set(feeds)
        compiled = self._capture_model(names, tensors) if names else self._plain
        start = time.perf_counter()
        try:
            found = compiled(feeds)
        except Exception as error:  # noqa: BLE001 - its classes have no common base
            raise BackendError(f"openvino failed while it ran: {line(error)}") from None
        seconds = time.perf_counter() - start
        # Copied: the arrays may live in memory that the next call writes over.
        values = {
            name: np.array(found[compiled.output(name)])
            for name in {*self._outputs, *tensors}
        }
        arrays = {name: values[name] for name in self._outputs}
        for name in names:
            x, y = self._built.observed[name]
            arrays[f"{name}/input"] = feeds[x] if x in feeds else values[x]
            arrays[name] = values[y]
        return Outputs(arrays, {"run": seconds})

    def _capture_model(
        self, names: tuple[str, ...], tensors: Collection[str]
    ) -> openvino.CompiledModel:
        if names not in self._capturing:
            # Each holds all weights: the oldest is forgotten.
            while len(self._capturing) >= _KEPT:
                self._capturing.pop(next(iter(self._capturing)))
            data = with_outputs(self._bytes, tensors)
            self._capturing[names] = compile_model(data, self._config)
        return self._capturing[names]

    def close(self) -> None:
        """Drop the compiled models; closing twice does nothing."""
        if not self._closed:
            self._closed = True
            self._capturing.clear()
            del self._plain

    def arithmetic(self) -> Arithmetic:
        """The precision in force, and the kernels that OpenVINO chose.

        In bfloat16 the decoded weight and input are rounded to bfloat16 before they
        are multiplied, and so is the result; sums are float32.
        """
        precision = precision_of(self._plain)
        layers = products(self._plain)
        execution = "emulated"
        if any(layer.low for layer in layers):
            execution = "native" if all(layer.low for layer in layers) else "mixed"
        kernels = Counter(layer.kernel for layer in layers)
        shown = ", ".join(f"{n} by {kernel}" for kernel, n in sorted(kernels.items()))
        group = self._plain.get_property("DYNAMIC_QUANTIZATION_GROUP_SIZE")
        return Arithmetic(
            accumulate="fp32",
            operands=precision,
            output=precision,
            execution=execution,  # type: ignore[arg-type]
            detail=f"inference precision {precision}, dynamic quantization group "
            f"{group}; {shown}",
        )

    def precision_report(self) -> dict[str, Any]:
        """The properties in force and what the compiled model holds."""
        precision = precision_of(self._plain)
        return {
            "stored": "fp32",
            "computed": precision,
            "probe": "INFERENCE_PRECISION_HINT of the compiled model",
            "kernels": dict(Counter(layer.kernel for layer in products(self._plain))),
            "constants": dict(constants(self._plain)),
            "statement": f"FP32 storage, {precision.upper()} arithmetic",
        }

    def artifact(self) -> Artifact:
        """Weights as OpenVINO itself decodes them from the built model's bytes.

        Inputs that the graph quantizes, and those that OpenVINO quantizes unasked.
        """
        assert self._scheme is not None  # sanity check
        shown = read_artifact(self._bytes, self._built, self._scheme, _evaluate)
        unasked_for = [layer for layer in products(self._plain) if layer.unasked]
        layers = frozenset().union(*(layer.names for layer in unasked_for))
        graph = self._built.proto.graph
        unasked = [n for n in self._built.observed if layers & self._names(n, graph)]
        return dataclasses.replace(
            shown, activations=sorted({*shown.activations, *unasked})
        )

    def _names(self, operator: str, graph: onnx.GraphProto) -> set[str]:
        """What OpenVINO may call the layer that computes an operator.

        By its own node, or by its bias' that it is merged with; a node that gives an
        output of the model is called by the output.
        """
        output = self._built.observed[operator][1]
        biases = {node.name for node in graph.node if output in node.output}
        return {operator, output, *biases}


def _evaluate(data: bytes) -> dict[str, Array]:
    compiled = compile_model(data, _PINNED)
    found = compiled({})
    return {
        output.get_any_name(): np.array(found[output]) for output in compiled.outputs
    }
