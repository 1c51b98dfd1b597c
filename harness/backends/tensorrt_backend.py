"""TensorRT: the graph that a scheme makes of the model, built into an engine.

Written against the Python interface of TensorRT 10 and 11, with strongly typed
networks: the types that the graph says are those that run. It takes explicit
quantization alone: static scales with QuantizeLinear and DequantizeLinear, as ModelOpt
exports them too.

Run on no GPU so far: `tests/backends/test_tensorrt_backend.py` holds it to the
documented protocol with a stand-in for the library, and is skipped for the real one
where there is none.
"""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Collection, Mapping
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from harness.backends import installed
from harness.backends.onnx_artifact import read_artifact
from harness.backends.onnx_build import support, unquantized, with_outputs
from harness.backends.onnx_call import feeds_of, shown, tensors_of
from harness.backends.protocol import (
    Arithmetic,
    Artifact,
    Availability,
    Finding,
    Outputs,
    Session,
    Support,
)
from harness.errors import BackendError, UnsupportedError
from harness.models.types import Model
from harness.schemes.types import Scheme

if TYPE_CHECKING:
    from harness.schemes.onnx_model import QuantizedModel

Array = np.ndarray[Any, np.dtype[Any]]
#: Engines that show operators, at a time: each holds all weights.
_KEPT: Final = 2
#: Largest size of a dynamic axis that an engine is built for, as a multiple of the
#: first size it met.
_ROOM: Final = 8
#: Words of the engine's own description that say in what type a layer computes.
_LOW: Final = ("FP8", "Int8", "INT8", "FP4", "Int4", "INT4")


class TensorRtBackend:
    """TensorRT on the first GPU.

    Args:
        precision: of an unquantized model: "fp32".
        name: registered under it.
        device: where inputs and outputs lie; another one than "cuda" is for tests.
    """

    def __init__(
        self,
        precision: str = "fp32",
        *,
        name: str = "tensorrt",
        device: str = "cuda",
    ) -> None:
        self.name = name
        self.precision = precision
        self.device = device

    def probe(self) -> Availability:
        """Whether TensorRT is installed and there is a GPU."""
        reason = installed.reason_against("tensorrt", "tensorrt", "onnx", "torch")
        if reason:
            return Availability(available=False, reason=reason)
        try:
            import tensorrt
            import torch

            if self.device == "cuda" and not torch.cuda.is_available():
                return Availability(available=False, reason="no CUDA device")
            name = torch.cuda.get_device_name() if self.device == "cuda" else "stand-in"
            version = str(tensorrt.__version__)
        except Exception as error:  # noqa: BLE001 - a broken install must not raise here
            return Availability(available=False, reason=f"does not import: {error}")
        return Availability(
            available=True, version=version, device=f"{self.device} {name}"
        )

    def supports(self, model: Model, scheme: Scheme) -> Support:
        """Whether it is explicit quantization as TensorRT takes it."""
        reason = ""
        weights, inputs = scheme.weights, scheme.activations
        if scheme.kv_cache is not None or weights is None or inputs is None:
            reason = "it quantizes weights together with their inputs"
        elif scheme.outputs is not None:
            reason = "rounding of results was never tried on it"
        elif inputs.dynamic or inputs.granularity != "tensor":
            reason = "scales of inputs are static, one a tensor"
        elif weights.granularity not in ("tensor", "channel"):
            reason = "scales of weights are one a tensor or one a channel"
        elif {weights.format, inputs.format} not in ({"int8"}, {"fp8_e4m3"}):
            reason = "both are INT8 or both FP8 E4M3"
        if reason:
            return Support(supported=False, reason=f"tensorrt: {reason}")
        return support(model, scheme)

    def preflight(self, model: Model) -> list[Finding]:
        """What TensorRT's own parser says about the model's operators."""
        import tensorrt

        from harness.backends.onnx_preflight import dynamic_inputs

        proto = model.onnx()
        logger = tensorrt.Logger(tensorrt.Logger.ERROR)
        network = _network(tensorrt, tensorrt.Builder(logger))
        parser = tensorrt.OnnxParser(network, logger)
        found: list[Finding] = []
        if not parser.parse(proto.SerializeToString()):
            reasons: Counter[tuple[str, str]] = Counter()
            for index in range(parser.num_errors):
                error = parser.get_error(index)
                place = error.node()
                node = proto.graph.node[place] if place >= 0 else None
                reasons[node.op_type if node else "the model", error.desc()] += 1
            found = [
                Finding("missing", what, count, detail)
                for (what, detail), count in reasons.items()
            ]
        return [*found, *dynamic_inputs(proto, model.batch_axes)]

    def load(self, model: Model, scheme: Scheme | None) -> Session:
        """Build the graph; engines are built for the shapes that come.

        Raises:
            UnsupportedError: a precision or format that is not there.
        """
        if scheme is not None:
            return self.open_built(self.build(model, scheme), scheme)
        if self.precision != "fp32":
            raise UnsupportedError(f"tensorrt does not run models in {self.precision}")
        return TensorRtSession(unquantized(model), device=self.device)

    def build(self, model: Model, scheme: Scheme) -> QuantizedModel:
        """The ONNX model that a scheme becomes here: standard operators alone.

        Raises:
            UnsupportedError: the format has no expression.
        """
        from harness.schemes.onnx_qdq import build

        return build(model.onnx(), scheme, contributed=False)

    def open_built(self, built: QuantizedModel, scheme: Scheme) -> Session:
        """Load a model that was built already."""
        return TensorRtSession(built, scheme, device=self.device)


class TensorRtSession:
    """A model and the engines that were built of it.

    Args:
        built: the model and where its operators are.
        scheme: None for the reference.
        device: where inputs and outputs lie.
    """

    def __init__(
        self, built: QuantizedModel, scheme: Scheme | None = None, *, device: str
    ) -> None:
        self._built = built
        self._scheme = scheme
        self._device = device
        self._bytes = built.proto.SerializeToString()
        self._inputs = [value.name for value in built.proto.graph.input]
        self._outputs = [value.name for value in built.proto.graph.output]
        self._engines: dict[tuple[str, ...], _Engine] = {}
        self._closed = False

    def run(
        self, inputs: Mapping[str, Array], *, capture: Collection[str] = ()
    ) -> Outputs:
        """Run once; with captures, in the engine that shows them.

        Raises:
            BackendError: closed, an input is missing, or TensorRT refuses them.
        """
        feeds = feeds_of("tensorrt", self._inputs, inputs, closed=self._closed)
        names = tuple(capture)
        engine = self._engine(names, feeds)
        start = time.perf_counter()
        values = engine.run(feeds)
        seconds = time.perf_counter() - start
        arrays = {name: values[name] for name in self._outputs}
        arrays |= shown(self._built.observed, names, feeds, values)
        return Outputs(arrays, {"run": seconds})

    def _engine(self, names: tuple[str, ...], feeds: Mapping[str, Array]) -> _Engine:
        found = self._engines.get(names)
        if found is not None and found.takes(feeds):
            return found
        self._engines.pop(names, None)
        watched = [key for key in self._engines if key]
        while names and len(watched) >= _KEPT:
            del self._engines[watched.pop(0)]
        tensors = tensors_of(self._built.observed, names, feeds)
        data = with_outputs(self._bytes, tensors) if tensors else self._bytes
        self._engines[names] = _Engine(data, feeds, self._device)
        return self._engines[names]

    def close(self) -> None:
        """Drop the engines; closing twice does nothing."""
        self._closed = True
        self._engines.clear()

    def arithmetic(self) -> Arithmetic:
        """What the engine says of its layers; FP32 on a GPU multiplies in TF32."""
        plain = self._engines.get(())
        layers = plain.layers() if plain is not None else Counter[str]()
        low = sum(count for kind, count in layers.items() if kind != "float")
        shown = ", ".join(f"{n} {kind}" for kind, n in sorted(layers.items()))
        return Arithmetic(
            accumulate="tf32",
            execution="native" if low else "emulated",
            detail=f"layers of the engine: {shown or 'not built yet'}",
        )

    def artifact(self) -> Artifact:
        """Weights of the built model, decoded as the specification says."""
        from harness.backends.onnx_reference_backend import evaluate

        assert self._scheme is not None  # sanity check
        return read_artifact(self._bytes, self._built, self._scheme, evaluate)


def _network(tensorrt: Any, builder: Any) -> Any:
    """An empty network whose types are the model's own."""
    # Absent where every network is strongly typed.
    flags = getattr(tensorrt, "NetworkDefinitionCreationFlag", None)
    typed = getattr(flags, "STRONGLY_TYPED", None)
    return builder.create_network(0 if typed is None else 1 << int(typed))


class _Engine:
    """One built engine, for a range of shapes.

    Raises:
        UnsupportedError: TensorRT does not parse or build the model; says why.
    """

    def __init__(self, data: bytes, feeds: Mapping[str, Array], device: str) -> None:
        import tensorrt

        self._trt = tensorrt
        self._device = device
        logger = tensorrt.Logger(tensorrt.Logger.ERROR)
        builder = tensorrt.Builder(logger)
        network = _network(tensorrt, builder)
        parser = tensorrt.OnnxParser(network, logger)
        if not parser.parse(data):
            told = [parser.get_error(i).desc() for i in range(parser.num_errors)]
            raise UnsupportedError(f"tensorrt does not parse it: {'; '.join(told)}")
        config = builder.create_builder_config()
        config.profiling_verbosity = tensorrt.ProfilingVerbosity.DETAILED
        profile = builder.create_optimization_profile()
        #: Input -> least and largest shape.
        self._range: dict[str, tuple[tuple[int, ...], tuple[int, ...]]] = {}
        for index in range(network.num_inputs):
            value = network.get_input(index)
            self._range[value.name] = _range(tuple(value.shape), feeds[value.name])
            least, most = self._range[value.name]
            profile.set_shape(value.name, least, feeds[value.name].shape, most)
        config.add_optimization_profile(profile)
        built = builder.build_serialized_network(network, config)
        if built is None:
            raise UnsupportedError("tensorrt does not build it; its log says why")
        self._runtime = tensorrt.Runtime(logger)
        self._engine = self._runtime.deserialize_cuda_engine(built)
        self._context = self._engine.create_execution_context()
        self._names = [
            self._engine.get_tensor_name(i) for i in range(self._engine.num_io_tensors)
        ]

    def takes(self, feeds: Mapping[str, Array]) -> bool:
        """Whether these shapes are among those that it was built for."""
        return all(
            len(least) == feeds[name].ndim
            and all(
                a <= n <= b
                for a, n, b in zip(least, feeds[name].shape, most, strict=True)
            )
            for name, (least, most) in self._range.items()
        )

    def run(self, feeds: Mapping[str, Array]) -> dict[str, Array]:
        """Outputs by name, in memory of their own.

        Raises:
            BackendError: TensorRT refuses a shape, or fails.
        """
        import torch

        held = {}
        outputs = []
        for name in self._names:
            if self._engine.get_tensor_mode(name) == self._trt.TensorIOMode.INPUT:
                held[name] = torch.from_numpy(feeds[name]).to(self._device)
                if not self._context.set_input_shape(name, tuple(feeds[name].shape)):
                    raise BackendError(
                        f"tensorrt refuses {name} of shape {feeds[name].shape}; it was "
                        f"built for {self._range[name]}"
                    )
            else:
                outputs.append(name)
        for name in outputs:
            shape = tuple(self._context.get_tensor_shape(name))
            dtype = self._trt.nptype(self._engine.get_tensor_dtype(name))
            like = torch.from_numpy(np.empty(0, dtype))
            held[name] = torch.empty(shape, dtype=like.dtype, device=self._device)
        for name, tensor in held.items():
            self._context.set_tensor_address(name, tensor.data_ptr())
        stream = torch.cuda.current_stream() if self._device == "cuda" else None
        if not self._context.execute_async_v3(stream.cuda_stream if stream else 0):
            raise BackendError("tensorrt failed while it ran; its log says why")
        if stream is not None:
            stream.synchronize()
        return {name: held[name].cpu().numpy() for name in outputs}

    def layers(self) -> Counter[str]:
        """How many layers compute in which type, by the engine's own description."""
        inspector = self._engine.create_engine_inspector()
        json_format = self._trt.LayerInformationFormat.JSON
        told = json.loads(inspector.get_engine_information(json_format))
        found: Counter[str] = Counter()
        for layer in told.get("Layers", ()):
            text = json.dumps(layer)
            found[next((kind.upper() for kind in _LOW if kind in text), "float")] += 1
        return found


def _range(
    declared: tuple[int, ...], given: Array
) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Least and largest shape: of a dynamic axis (-1), 1 to a multiple of this size."""
    pairs = [
        (1, _ROOM * size) if axis < 0 else (size, size)
        for axis, size in zip(declared, given.shape, strict=True)
    ]
    return tuple(least for least, _ in pairs), tuple(most for _, most in pairs)
