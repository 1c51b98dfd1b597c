"""ONNX Runtime: the model that we build from reference and scheme, run as users do.

The session is in its default configuration, optimizer included. Operators are observed
through a second session of the same model whose graph has more outputs.
"""

from __future__ import annotations

import importlib.util
import os
import time
from collections.abc import Collection, Mapping
from importlib.metadata import version
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from harness.backends.protocol import (
    Arithmetic,
    Artifact,
    Availability,
    Outputs,
    QuantizedTensor,
    Support,
)
from harness.errors import BackendError, MissingExtraError, UnsupportedError
from harness.models.types import Model
from harness.schemes.apply import plan
from harness.schemes.types import Scheme

if TYPE_CHECKING:
    import onnx
    import onnxruntime

    from harness.schemes.onnx_qdq import QuantizedModel

Array = np.ndarray[Any, np.dtype[Any]]

_FLOAT16: Final = 10


class OnnxRuntimeBackend:
    """The CPU provider; CUDA's where this build of ONNX Runtime and the machine have it."""

    name = "onnxruntime"

    def __init__(self, precision: str = "fp32") -> None:
        #: Precision of an unquantized model: "fp16" or "fp32".
        self.precision = precision

    def probe(self) -> Availability:
        """Whether onnxruntime and onnx are installed, and what they run on."""
        for package in ("onnxruntime", "onnx"):
            if importlib.util.find_spec(package) is None:
                error = MissingExtraError(package, "onnxruntime")
                return Availability(available=False, reason=str(error))
        try:
            provider = _providers()[0]
        except Exception as error:  # noqa: BLE001 - a broken install must not raise here
            return Availability(available=False, reason=f"does not import: {error}")
        return Availability(
            available=True, version=version("onnxruntime"), device=_device(provider)
        )

    def supports(self, model: Model, scheme: Scheme) -> Support:
        """Try to build the model: what cannot be expressed names its operator."""
        if not any(
            p.weights or p.activations for p in plan(scheme, model.operators()).values()
        ):
            return Support(supported=True, reason="the scheme quantizes no operator")
        return Support(supported=True)

    def load(self, model: Model, scheme: Scheme | None) -> OnnxRuntimeSession:
        """Build and load.

        Raises:
            UnsupportedError: ONNX Runtime has no kernel, or the format no expression.
        """
        if scheme is None:
            return OnnxRuntimeSession(self._unquantized(model), self.precision)
        from harness.schemes.onnx_qdq import build

        return OnnxRuntimeSession(build(model.onnx(), scheme), "fp32", scheme)

    def _unquantized(self, model: Model) -> QuantizedModel:
        from harness.models.onnx_operators import find_operators
        from harness.schemes.onnx_qdq import QuantizedModel

        proto = model.onnx()
        if self.precision == "fp16":
            proto = to_float16(proto)
        elif self.precision != "fp32":
            raise UnsupportedError(
                f"onnxruntime does not run models in {self.precision}"
            )
        observed = {e.name: (e.input, e.output) for e in find_operators(proto)}
        return QuantizedModel(proto, observed, {}, {})


def _providers() -> list[str]:
    import onnxruntime

    available = onnxruntime.get_available_providers()
    wanted = ["CUDAExecutionProvider", "CPUExecutionProvider"]
    return [name for name in wanted if name in available]


def _device(provider: str) -> str:
    return {"CPUExecutionProvider": "cpu", "CUDAExecutionProvider": "cuda"}[provider]


def to_float16(model: onnx.ModelProto) -> onnx.ModelProto:
    """Weights in FP16, each decoded by a Cast to FP32.

    ONNX Runtime's CPU provider has no FP16 MatMul or Conv: whatever the graph says, it
    casts to FP32 and computes there. This form says so.
    """
    from onnx import helper, numpy_helper

    casts = []
    for tensor in list(model.graph.initializer):
        if tensor.data_type != 1 or not tensor.dims:
            continue
        half = numpy_helper.to_array(tensor).astype(np.float16)
        name = f"{tensor.name}.fp16"
        casts.append(helper.make_node("Cast", [name], [tensor.name], to=1))
        model.graph.initializer.remove(tensor)
        model.graph.initializer.append(numpy_helper.from_array(half, name))
    nodes = [*casts, *model.graph.node]
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    return model


class OnnxRuntimeSession:
    """A loaded model.

    Args:
        built: the model and where its operators are.
        precision: what an unquantized model was stored in.
        scheme: None for the reference.
    """

    def __init__(
        self, built: QuantizedModel, precision: str, scheme: Scheme | None = None
    ) -> None:
        self._built = built
        self._precision = precision
        self._scheme = scheme
        self._bytes = built.proto.SerializeToString()
        self._plain = _session(self._bytes)
        self._capturing: dict[tuple[str, ...], onnxruntime.InferenceSession] = {}
        self._outputs = [value.name for value in self._plain.get_outputs()]
        self._inputs = [value.name for value in self._plain.get_inputs()]

    def run(
        self, inputs: Mapping[str, Array], *, capture: Collection[str] = ()
    ) -> Outputs:
        """Run once; with captures, in the session that shows them."""
        feeds = {name: np.ascontiguousarray(inputs[name]) for name in self._inputs}
        if not capture:
            start = time.perf_counter()
            values = self._plain.run(None, feeds)
            seconds = time.perf_counter() - start
            return Outputs(
                dict(zip(self._outputs, values, strict=True)), {"run": seconds}
            )
        return self._run_capturing(feeds, tuple(capture))

    def _run_capturing(
        self, feeds: Mapping[str, Array], names: tuple[str, ...]
    ) -> Outputs:
        tensors = {t for name in names for t in self._built.observed[name]} - set(feeds)
        if names not in self._capturing:
            self._capturing[names] = self._capture_session(tensors)
        session = self._capturing[names]
        wanted = [value.name for value in session.get_outputs()]
        start = time.perf_counter()
        values = dict(zip(wanted, session.run(wanted, dict(feeds)), strict=True))
        seconds = time.perf_counter() - start
        arrays = {name: values[name] for name in self._outputs}
        for name in names:
            x, y = self._built.observed[name]
            arrays[f"{name}/input"] = feeds[x] if x in feeds else values[x]
            arrays[name] = values[y]
        return Outputs(arrays, {"run": seconds})

    def _capture_session(
        self, tensors: Collection[str]
    ) -> onnxruntime.InferenceSession:
        import onnx

        model = onnx.ModelProto()
        model.ParseFromString(self._bytes)
        have = {value.name for value in model.graph.output}
        for name in sorted(set(tensors) - have):
            model.graph.output.append(onnx.ValueInfoProto(name=name))
        return _session(model.SerializeToString())

    def close(self) -> None:
        """Drop the sessions."""
        self._capturing.clear()
        del self._plain

    def arithmetic(self) -> Arithmetic:
        """float32 throughout: Q/DQ decode to it, and MatMul and Conv compute in it."""
        if self._scheme is None:
            detail = f"weights stored in {self._precision}, computed in fp32"
        elif any(not tensor for tensor in self._built.weights.values()):
            detail = "MatMulNBits on packed INT4, fp32 arithmetic"
        else:
            detail = "low-precision weights decoded in the graph, fp32 arithmetic"
        return Arithmetic(execution="emulated", detail=detail)

    def precision_report(self) -> dict[str, Any]:
        """What this precision really was, as a probe found it."""
        overflowed = fp16_overflows()
        return {
            "stored": self._precision,
            "computed": "fp32",
            "probe": "x * 300 * 300 / 300 / 300 in an FP16 graph, x = 1",
            "overflowed": overflowed,
            "statement": "FP16 storage, FP32 arithmetic"
            if self._precision == "fp16"
            else "FP32",
        }

    def artifact(self) -> Artifact:
        """Weights as ONNX Runtime itself decodes them from the built model's bytes."""
        from harness.backends.onnx_artifact import read_artifact

        assert self._scheme is not None  # sanity check
        return read_artifact(self._bytes, self._built, self._scheme)


def _session(data: bytes) -> onnxruntime.InferenceSession:
    """A session in the default configuration, but for what the user set.

    Raises:
        UnsupportedError: there is no kernel for a node.
        BackendError: the model does not load.
    """
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    threads = os.environ.get("QUANTHARNESS_THREADS")
    if threads:
        options.intra_op_num_threads = int(threads)
    try:
        return onnxruntime.InferenceSession(data, options, providers=_providers())
    except Exception as error:
        text = " ".join(str(error).split())[:400]
        if "NOT_IMPLEMENTED" in text or "NotImplemented" in type(error).__name__:
            raise UnsupportedError(f"onnxruntime has no kernel: {text}") from None
        raise BackendError(f"onnxruntime does not load the model: {text}") from None


def fp16_overflows() -> bool:
    """Whether 300 * 300 in an FP16 graph gives Inf, as FP16 arithmetic must."""
    from onnx import TensorProto, helper

    nodes, last = [], "x"
    factor = helper.make_tensor(
        "f", TensorProto.FLOAT16, [], np.array([300.0], np.float16)
    )
    for index, kind in enumerate(("Mul", "Mul", "Div", "Div")):
        nodes.append(helper.make_node(kind, [last, "f"], [f"y{index}"]))
        last = f"y{index}"
    graph = helper.make_graph(
        nodes,
        "probe",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT16, [1])],
        [helper.make_tensor_value_info(last, TensorProto.FLOAT16, [1])],
        [factor],
    )
    model = helper.make_model(
        graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10
    )
    found = _session(model.SerializeToString()).run(
        None, {"x": np.ones(1, np.float16)}
    )[0]
    return bool(np.isinf(found).any())
