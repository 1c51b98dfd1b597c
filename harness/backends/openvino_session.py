"""A model that OpenVINO compiled: run, watched, and shown as it is."""

from __future__ import annotations

import dataclasses
import time
from collections import Counter
from collections.abc import Collection, Mapping
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from harness.backends.onnx_artifact import read_artifact
from harness.backends.onnx_build import with_outputs
from harness.backends.onnx_call import feeds_of, shown, tensors_of
from harness.backends.openvino_compressed import Compression
from harness.backends.openvino_model import (
    PINNED,
    compile_model,
    constants,
    line,
    precision_of,
    products,
)
from harness.backends.protocol import Arithmetic, Artifact, Outputs
from harness.errors import BackendError
from harness.schemes.types import Scheme

if TYPE_CHECKING:
    import onnx
    import openvino

    from harness.schemes.onnx_model import QuantizedModel

Array = np.ndarray[Any, np.dtype[Any]]

#: Models that show operators, at a time.
_KEPT: Final = 2


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
        self._plain = self._compile(self._bytes, self._config)
        self._capturing: dict[tuple[str, ...], openvino.CompiledModel] = {}
        self._closed = False

    def run(
        self, inputs: Mapping[str, Array], *, capture: Collection[str] = ()
    ) -> Outputs:
        """Run once; with captures, in the model that shows them.

        Raises:
            BackendError: closed, an input is missing, or OpenVINO refuses them.
        """
        feeds = feeds_of("openvino", self._inputs, inputs, closed=self._closed)
        names = tuple(capture)
        tensors = tensors_of(self._built.observed, names, feeds)
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
        arrays |= shown(self._built.observed, names, feeds, values)
        return Outputs(arrays, {"run": seconds})

    def _capture_model(
        self, names: tuple[str, ...], tensors: Collection[str]
    ) -> openvino.CompiledModel:
        if names not in self._capturing:
            # Each holds all weights: the oldest is forgotten.
            while len(self._capturing) >= _KEPT:
                self._capturing.pop(next(iter(self._capturing)))
            data = with_outputs(self._bytes, tensors)
            self._capturing[names] = self._compile(data, self._config)
        return self._capturing[names]

    def _compile(
        self, data: bytes, config: Mapping[str, Any]
    ) -> openvino.CompiledModel:
        """The graph, with more outputs or a part of it, as this session runs it."""
        return compile_model(data, config)

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
        shown = read_artifact(self._bytes, self._built, self._scheme, self._evaluate)
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

    def _evaluate(self, data: bytes) -> dict[str, Array]:
        compiled = self._compile(data, PINNED)
        found = compiled({})
        return {
            output.get_any_name(): np.array(found[output])
            for output in compiled.outputs
        }


class CompressedSession(OpenVinoSession):
    """The same with weights in OpenVINO's own types, in place of nodes that decode.

    OpenVINO reads them as they are in layers that are matrix products; what it cannot
    read so, weights of convolutions among it, it decodes when it compiles the model.
    """

    def __init__(
        self, built: QuantizedModel, config: Mapping[str, Any], scheme: Scheme
    ) -> None:
        self._compression = Compression(built, scheme)
        super().__init__(built, config, scheme)

    def _compile(
        self, data: bytes, config: Mapping[str, Any]
    ) -> openvino.CompiledModel:
        return compile_model(data, config, self._compression)

    def _read_as_stored(self) -> frozenset[str]:
        """Operators whose layer reads codes, not a weight that was decoded before."""
        element = self._compression.element
        names: frozenset[str] = frozenset().union(
            *(p.names for p in products(self._plain) if p.weights == element)
        )
        graph = self._built.proto.graph
        return frozenset(
            o for o in self._built.weights if names & self._names(o, graph)
        )

    def arithmetic(self) -> Arithmetic:
        """As of the graph; native where layers read codes."""
        found = super().arithmetic()
        count, stored = len(self._built.weights), len(self._read_as_stored())
        execution = "native" if stored == count else "mixed" if stored else "emulated"
        return dataclasses.replace(
            found,
            execution=execution,  # type: ignore[arg-type]
            detail=f"{found.detail}; {stored} of {count} weights read as "
            f"{self._compression.element}",
        )

    def artifact(self) -> Artifact:
        """Weights as OpenVINO decodes them, and what the compiled model holds."""
        shown = super().artifact()
        element, stored = self._compression.element, self._read_as_stored()
        weights = {
            operator: dataclasses.replace(
                weight,
                stored_as=element
                if operator in stored
                else f"float, decoded from {element} when the model was compiled",
            )
            for operator, weight in shown.weights.items()
        }
        return dataclasses.replace(shown, weights=weights)
