"""Sessions of ONNX Runtime: their settings, their providers, their errors."""

from __future__ import annotations

import functools
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Literal

import numpy as np

from harness.backends.onnx_preflight import Kind
from harness.backends.onnx_qnn import QNN, add_provider, register
from harness.backends.protocol import Finding
from harness.backends.threads import threads
from harness.errors import BackendError, UnsupportedError

if TYPE_CHECKING:
    import onnxruntime

Array = np.ndarray[Any, np.dtype[Any]]
Optimization = Literal["all", "off"]
CPU: Final = "CPUExecutionProvider"
CUDA: Final = "CUDAExecutionProvider"


@dataclass(frozen=True)
class Settings:
    """How sessions are configured, beyond ONNX Runtime's defaults."""

    optimization: Optimization = "all"
    config: tuple[tuple[str, str], ...] = ()
    #: Execution provider to ask for; "": CUDA's where there is one, else the CPU's.
    provider: str = ""
    #: Files of custom operators.
    libraries: tuple[str, ...] = ()
    #: Options of that provider, where it is a plugin.
    provider_options: tuple[tuple[str, str], ...] = ()
    #: Whether memory is kept from call to call. Where every call has larger arrays than
    #: the last, what was freed fits none of them, and the arena grows.
    arena: bool = True

    @property
    def fixed_shapes(self) -> bool:
        """Whether a session is opened for the shapes of its inputs."""
        return self.provider == QNN


def providers(wanted: str = "") -> list[str]:
    """Providers to ask for, the one wanted or the fastest first.

    Raises:
        UnsupportedError: this build of ONNX Runtime has not the one wanted.
        MissingExtraError: it is a plugin that is not installed.
    """
    import onnxruntime

    if wanted == QNN:
        register()
    available = onnxruntime.get_available_providers()
    if wanted and wanted not in available:
        raise UnsupportedError(
            f"this build of ONNX Runtime has no {wanted}; it has {', '.join(available)}"
        )
    if wanted:
        return [wanted] if wanted == CPU else [wanted, CPU]
    return [name for name in (CUDA, CPU) if name in available]


def device_of(provider: str) -> str:
    """The device's name, for people: "CUDAExecutionProvider" is "cuda"."""
    return provider.removesuffix("ExecutionProvider").lower()


def call(
    session: onnxruntime.InferenceSession,
    wanted: list[str] | None,
    feeds: Mapping[str, Array],
) -> list[Array]:
    """Run a session; whatever it raises is a `BackendError` of one line."""
    try:
        values: list[Array] = session.run(wanted, dict(feeds))
    except Exception as error:  # noqa: BLE001 - its classes have no common base
        text = " ".join(str(error).split())[:400]
        raise BackendError(f"onnxruntime failed while it ran: {text}") from None
    return values


def open_session(
    data: bytes, settings: Settings | None = None
) -> onnxruntime.InferenceSession:
    """A session in the default configuration, but for what the user set.

    Raises:
        UsageError: QUANTHARNESS_THREADS is not a whole number.
        UnsupportedError: there is no kernel for a node.
        BackendError: the model does not load.
    """
    import onnxruntime

    settings = settings or Settings()
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    # Says which provider got which node: the list of providers alone proves nothing.
    options.add_session_config_entry("session.record_ep_graph_assignment_info", "1")
    options.enable_cpu_mem_arena = options.enable_mem_pattern = settings.arena
    for key, value in settings.config:
        options.add_session_config_entry(key, value)
    if settings.optimization == "off":
        levels = onnxruntime.GraphOptimizationLevel
        options.graph_optimization_level = levels.ORT_DISABLE_ALL
    for library in settings.libraries:
        options.register_custom_ops_library(library)
    options.intra_op_num_threads = threads()
    chosen: list[str] | None = None
    if settings.provider == QNN:
        add_provider(options, dict(settings.provider_options))
    else:
        chosen = providers(settings.provider)
    try:
        return onnxruntime.InferenceSession(
            # Else a provider that fails is replaced by the CPU, in its name.
            data,
            options,
            providers=chosen,
            enable_fallback=0,
        )
    except Exception as error:  # noqa: BLE001 - its classes have no common base
        text = _told(error)
        if "NOT_IMPLEMENTED" in text or "NotImplemented" in type(error).__name__:
            raise UnsupportedError(f"onnxruntime has no kernel: {text}") from None
        raise BackendError(f"onnxruntime does not load the model: {text}") from None


def _told(error: Exception) -> str:
    """One line; of an opset that is too new the numbers alone.

    ONNX Runtime says more of it, after the signature of a C++ function.
    """
    text = " ".join(str(error).split())
    asked = re.search(r"Opset (\d+) is under development", text)
    known = re.search(r"till opset (\d+)", text)
    if asked and known:
        return (
            f"it has opset {asked[1]}, and this version knows {known[1]} at most: "
            f"export it with opset {known[1]}"
        )
    return text[:400]


def evaluate(data: bytes, libraries: Sequence[str] = ()) -> dict[str, Array]:
    """Outputs of a model without inputs, on the CPU, every optimization off.

    `libraries`: files of custom operators that it has.
    """
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    levels = onnxruntime.GraphOptimizationLevel
    options.graph_optimization_level = levels.ORT_DISABLE_ALL
    for library in libraries:
        options.register_custom_ops_library(library)
    session = onnxruntime.InferenceSession(data, options, providers=[CPU])
    names = [value.name for value in session.get_outputs()]
    return dict(zip(names, session.run(names, {}), strict=True))


def assignment(
    session: onnxruntime.InferenceSession, provider: str = ""
) -> dict[str, int]:
    """Provider -> nodes it was given.

    Raises:
        BackendError: the provider asked for first got none, though there are nodes.
    """
    show = getattr(session, "get_provider_graph_assignment_info", None)
    if show is None:
        return {}
    counts: Counter[str] = Counter()
    for part in show():
        counts[part.ep_name] += len(part.get_nodes())
    wanted = providers(provider)[0]
    if counts and not counts[wanted]:
        raise BackendError(
            f"{wanted} runs 0 nodes, but should run most [others: {dict(counts)}]"
        )
    return dict(counts)


def assigned_kinds(session: onnxruntime.InferenceSession) -> dict[str, Counter[str]]:
    """Provider -> how many nodes of each kind it was given; the optimizer's own too."""
    kinds: dict[str, Counter[str]] = {}
    for part in session.get_provider_graph_assignment_info():
        found = kinds.setdefault(part.ep_name, Counter())
        found.update(node.op_type for node in part.get_nodes())
    return kinds


def kernel_findings(kinds: Mapping[Kind, int]) -> list[Finding]:
    """Kinds of operator without a kernel of the first provider.

    A kind whose float16 input has no kernel is not missing: ONNX Runtime inserts casts
    and computes in float32.
    """
    from onnxruntime.capi import onnxruntime_pybind11_state

    wanted = providers()[0]
    kernels = [
        kernel
        for kernel in onnxruntime_pybind11_state.get_all_opkernel_def()
        if kernel.provider == wanted
    ]
    found = []
    for kind, count in kinds.items():
        own = [
            kernel
            for kernel in kernels
            if (kernel.op_name, kernel.domain) == (kind.name, kind.domain)
            and kernel.version_range[0] <= kind.version <= kernel.version_range[1]
        ]
        if not own:
            # ONNX defines some operators as functions of others: those are inlined.
            if not kind.is_function:
                detail = f"{wanted} has no kernel at opset {kind.version}"
                found.append(Finding("missing", kind.title, count, detail))
            continue
        first = kind.types[0] if kind.types else ""
        allowed = {
            t for kernel in own for ts in kernel.type_constraints.values() for t in ts
        }
        if first and allowed and f"tensor({first})" not in allowed:
            narrow = first in ("float16", "bfloat16")
            found.append(
                Finding(
                    "cast" if first == "float16" else "missing",
                    kind.title,
                    count,
                    "computed in float32, between casts"
                    if first == "float16"
                    else f"no kernel for {first}" + " on this provider" * narrow,
                )
            )
    return found


@functools.cache
def htp_precision(settings: Settings) -> str:
    """In what QNN's HTP multiplies floats: "fp32", or "fp16" as an NPU does.

    Asked once a process, which is as long as the answer holds: the plugin keeps the
    processor that its first session named.
    """
    from onnx import helper, numpy_helper

    ends = [helper.make_tensor_value_info(name, 1, [1, 1]) for name in "xy"]
    weight = numpy_helper.from_array(np.ones((1, 1), np.float32), "w")
    node = helper.make_node("MatMul", ["x", "w"], ["y"])
    model = helper.make_model(
        helper.make_graph([node], "probe", ends[:1], ends[1:], [weight]),
        opset_imports=[helper.make_opsetid("", 21)],
        ir_version=10,
    )
    x = np.full((1, 1), 1 + 2.0**-12, np.float32)
    session = open_session(model.SerializeToString(), settings)
    (found,) = call(session, None, {"x": x})
    # An FP16 result comes back a last bit larger: 1.0000001.
    return "fp32" if abs(float(found[0, 0]) - float(x[0, 0])) < 2.0**-22 else "fp16"


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
    found = open_session(model.SerializeToString()).run(
        None, {"x": np.ones(1, np.float16)}
    )[0]
    return bool(np.isinf(found).any())
