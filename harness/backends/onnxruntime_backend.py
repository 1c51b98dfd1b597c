"""ONNX Runtime: the model that we build from reference and scheme, run as users do.

The session is in its default configuration, optimizer included. Operators are observed
through a second session of the same model whose graph has more outputs.
"""

from __future__ import annotations

import dataclasses
import functools
import time
from collections.abc import Collection, Mapping
from importlib.metadata import version
from typing import TYPE_CHECKING, Any, ClassVar, Final

import numpy as np

from harness.backends import installed
from harness.backends.onnx_artifact import ROUNDS_AND_DECODES, read_artifact
from harness.backends.onnx_build import support, unquantized
from harness.backends.onnx_call import feeds_of, shown, tensors_of
from harness.backends.onnx_language import has_cache, with_cache
from harness.backends.onnx_pool import Pool
from harness.backends.onnx_qnn import QNN, refuses
from harness.backends.onnx_session import (
    CPU,
    CUDA,
    Optimization,
    Settings,
    assigned_kinds,
    call,
    device_of,
    evaluate,
    fp16_overflows,
    htp_precision,
    providers,
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
from harness.errors import (
    MissingExtraError,
    UnsupportedError,
)
from harness.models.types import Model
from harness.schemes.checkpoint import is_onnx_file
from harness.schemes.types import Scheme

if TYPE_CHECKING:
    import onnx

    from harness.schemes.onnx_model import QuantizedModel

Array = np.ndarray[Any, np.dtype[Any]]

#: Variant -> execution provider, where the build of ONNX Runtime has it; QNN's is a
#: plugin, a package of its own.
PROVIDERS: Final = {
    "cpu": "CPUExecutionProvider",
    "cuda": "CUDAExecutionProvider",
    "tensorrt": "TensorrtExecutionProvider",
    "openvino": "OpenVINOExecutionProvider",
    "vitisai": "VitisAIExecutionProvider",
}


class OnnxRuntimeBackend:
    """The CPU provider, or CUDA's where this build and the machine have it.

    Args:
        precision: of an unquantized model: "fp32", or "fp16" for storage in FP16.
        name: registered under it; another configuration needs another name.
        optimization: "all" is what users run; "off" runs the graph as it is built.
        config: session configuration entries, e.g.
            {"session.qdq_matmulnbits_accuracy_level": "1"}.
        provider: execution provider to ask for; "": CUDA's or the CPU's. One that is
            given no node is an error: it would be the CPU's result under its name.
        provider_options: of a provider that is a plugin.
    """

    variants: ClassVar = {
        "unoptimized": Variant(
            summary="the graph as it is built, optimizer off",
            options={"optimization": "off"},
        ),
        **{
            name: Variant(summary=f"through {provider}", options={"provider": provider})
            for name, provider in PROVIDERS.items()
        },
        "qnn": Variant(
            summary="Qualcomm's HTP, which on x86 is a simulator",
            options={"provider": QNN, "provider_options": {"backend_type": "htp"}},
        ),
        "qnn-x-elite": Variant(
            summary="the HTP simulator as the NPU of a Snapdragon X Elite (v73)",
            options={
                "provider": QNN,
                "provider_options": {"backend_type": "htp", "soc_model": "60"},
            },
        ),
    }

    def __init__(
        self,
        precision: str = "fp32",
        *,
        name: str = "onnxruntime",
        optimization: Optimization = "all",
        config: Mapping[str, str] | None = None,
        provider: str = "",
        provider_options: Mapping[str, str] | None = None,
    ) -> None:
        self.name = name
        self.precision = precision
        entries = tuple((config or {}).items())
        own = tuple((provider_options or {}).items())
        self.settings = Settings(optimization, entries, provider, provider_options=own)

    def probe(self) -> Availability:
        """Whether onnxruntime and onnx are installed, and what they run on."""
        reason = installed.reason_against("onnxruntime", "onnxruntime", "onnx")
        if reason:
            return Availability(available=False, reason=reason)
        try:
            provider = providers(self.settings.provider)[0]
        except (MissingExtraError, UnsupportedError) as error:
            return Availability(available=False, reason=str(error))
        except Exception as error:  # noqa: BLE001 - a broken install must not raise here
            return Availability(available=False, reason=f"does not import: {error}")
        return Availability(
            available=True, version=version("onnxruntime"), device=device_of(provider)
        )

    def supports(self, model: Model, scheme: Scheme) -> Support:
        """Build one output channel of every operator: what cannot be expressed says so.

        Scales that a static scheme is calibrated with later count as given. QNN is
        asked for no more than its HTP takes.
        """
        reason = refuses(scheme) if self.settings.provider == QNN else ""
        if reason:
            names = {operator.name: reason for operator in model.operators()}
            return Support(supported=False, reason=reason, operators=names)
        return support(model, scheme)

    def preflight(self, model: Model) -> list[Finding]:
        """What its registry of kernels says about the model's operators."""
        from harness.backends.onnx_preflight import census, dynamic_inputs
        from harness.backends.onnx_session import kernel_findings

        proto = model.onnx()
        return [
            *kernel_findings(census(proto)),
            *dynamic_inputs(proto, model.batch_axes),
        ]

    def load(self, model: Model, scheme: Scheme | None) -> Session:
        """Build and load.

        Raises:
            UnsupportedError: ONNX Runtime has no kernel, or the format no expression.
            BackendError: the model does not load, or runs elsewhere than asked for.
        """
        if scheme is None:
            built = self._unquantized(model)
            return self._open(built, self.precision)
        return self.open_built(self.build(model, scheme), scheme)

    def build(self, model: Model, scheme: Scheme) -> QuantizedModel:
        """The ONNX model that a scheme becomes here.

        Raises:
            UnsupportedError: the format has no expression.
        """
        from harness.schemes.onnx_qdq import build

        return build(model.onnx(), scheme)

    def open_built(self, built: QuantizedModel, scheme: Scheme) -> Session:
        """Load a model that was built already.

        Raises:
            BackendError: the model does not load, or runs elsewhere than asked for.
        """
        return self._open(built, "fp32", scheme)

    def _open(
        self, built: QuantizedModel, precision: str, scheme: Scheme | None = None
    ) -> Session:
        settings = self.settings
        if has_cache(built.proto):
            settings = dataclasses.replace(settings, arena=False)
        session = OnnxRuntimeSession(built, precision, scheme, settings=settings)
        return with_cache(session, built.proto)

    def _unquantized(self, model: Model) -> QuantizedModel:
        if self.precision not in ("fp32", "fp16"):
            raise UnsupportedError(
                f"onnxruntime does not run models in {self.precision}"
            )
        return unquantized(model, to_float16 if self.precision == "fp16" else None)


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
        settings: beyond ONNX Runtime's defaults.
    """

    def __init__(
        self,
        built: QuantizedModel,
        precision: str,
        scheme: Scheme | None = None,
        *,
        settings: Settings | None = None,
    ) -> None:
        self._built = built
        self._precision = precision
        self._scheme = scheme
        self._settings = settings or Settings()
        self._bytes = built.proto.SerializeToString()
        self._pool = Pool(self._bytes, self._settings)
        #: Provider -> how many nodes it was given; empty when this build cannot say.
        self.assignment = self._pool.assignment
        first = self._pool.first
        self._outputs = [value.name for value in first.get_outputs()]
        self._inputs = [value.name for value in first.get_inputs()]
        self._providers = first.get_providers()
        self._closed = False

    def run(
        self, inputs: Mapping[str, Array], *, capture: Collection[str] = ()
    ) -> Outputs:
        """Run once; with captures, in the session that shows them.

        Raises:
            BackendError: closed, an input is missing, or ONNX Runtime refuses them.
        """
        feeds = feeds_of("onnxruntime", self._inputs, inputs, closed=self._closed)
        tensors = tensors_of(self._built.observed, capture, feeds)
        session = self._pool.get(feeds, tensors)
        wanted = [value.name for value in session.get_outputs()]
        start = time.perf_counter()
        values = dict(zip(wanted, call(session, wanted, feeds), strict=True))
        seconds = time.perf_counter() - start
        arrays = {name: values[name] for name in self._outputs}
        arrays |= shown(self._built.observed, capture, feeds, values)
        return Outputs(arrays, {"run": seconds})

    def close(self) -> None:
        """Drop the sessions; closing twice does nothing."""
        if not self._closed:
            self._closed = True
            self._pool.close()

    def arithmetic(self) -> Arithmetic:
        """float32 throughout: Q/DQ decode to it, and MatMul and Conv compute in it.

        CUDA's MatMul and Conv round their inputs to TF32 unless told otherwise. QNN's
        HTP multiplies decoded weights and inputs as floats too, because a scheme says
        nothing of outputs; as an NPU that has no float32 it rounds them, and the
        result, to FP16. What it does is asked of it, each time.
        """
        on_cuda = CUDA in self.assignment or self._providers[0] == CUDA
        accumulate = "tf32" if on_cuda else "fp32"
        stored = "fp32"
        if self._settings.provider == QNN:
            stored = htp_precision(self._settings)
        packed = [name for name, tensor in self._built.weights.items() if not tensor]
        file = self._scheme is not None and is_onnx_file(self._scheme.checkpoint)
        if self._scheme is None:
            detail = f"weights stored in {self._precision}, computed in fp32"
        elif file:
            kind = f"{len(packed)} integer products" if packed else "codes decoded"
            detail = f"the file as it is: {kind}, {stored} arithmetic"
        elif packed:
            detail = f"MatMulNBits on packed INT4: {len(packed)} operators"
        elif self._rounds_weights():
            detail = f"float32 weights rounded in the graph, {stored} arithmetic"
        else:
            detail = f"low-precision weights decoded in the graph, {stored} arithmetic"
        others = len(self._built.weights) - len(packed)
        return Arithmetic(
            accumulate=accumulate,
            output=stored,
            operands=stored,
            execution="emulated" if not packed else "mixed" if others else "native",
            detail=f"{detail}; {self._where()}",
        )

    def _rounds_weights(self) -> bool:
        """Whether weights are rounded when the model runs, not stored as codes."""
        weights = set(self._built.weights.values())
        return any(
            node.op_type in ROUNDS_AND_DECODES and node.output[0] in weights
            for node in self._built.proto.graph.node
        )

    def _where(self) -> str:
        """Providers with the number of nodes that each was given.

        Beside a provider that was asked for, the kinds that stayed with the CPU.
        """
        if not self.assignment:
            return f"providers {', '.join(self._providers)}"
        shown = [f"{name} {n} nodes" for name, n in self.assignment.items()]
        kept = assigned_kinds(self._pool.first).get(CPU)
        if kept and self._settings.provider not in ("", CPU):
            shown.append(f"on the CPU {', '.join(sorted(kept))}")
        return ", ".join(shown)

    def precision_report(self) -> dict[str, Any]:
        """What this precision really was, as a probe found it."""
        if self._settings.provider == QNN:
            computed = htp_precision(self._settings)
            return {
                "stored": self._precision,
                "computed": computed,
                "probe": "(1 + 2**-12) * 1 on the HTP",
                "statement": f"{computed.upper()} arithmetic on the HTP",
            }
        overflowed = fp16_overflows()
        fp16 = self._precision == "fp16"
        return {
            "stored": self._precision,
            "computed": "fp32",
            "probe": "x * 300 * 300 / 300 / 300 in an FP16 graph, x = 1",
            "overflowed": overflowed,
            "statement": "FP16 storage, FP32 arithmetic" if fp16 else "FP32",
        }

    def artifact(self) -> Artifact:
        """Weights as ONNX Runtime itself decodes them from the built model's bytes."""
        assert self._scheme is not None  # sanity check
        run = functools.partial(evaluate, libraries=self._settings.libraries)
        return read_artifact(self._bytes, self._built, self._scheme, run)
