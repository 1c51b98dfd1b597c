"""Compiled models of OpenVINO: how they are made, and what they really compute in."""

from __future__ import annotations

import functools
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib.metadata import version
from typing import TYPE_CHECKING, Any, Final

from harness.backends.onnx_build import there_and_back
from harness.backends.protocol import Finding
from harness.backends.threads import threads
from harness.errors import BackendError, HarnessError, UnsupportedError

if TYPE_CHECKING:
    import openvino

#: Layers that multiply: what the low-precision kernels are for.
_PRODUCTS: Final = ("FullyConnected", "Convolution", "MatMul")
#: OpenVINO's name of an inference precision -> ours.
PRECISIONS: Final[Mapping[str, str]] = {"f32": "fp32", "bf16": "bf16", "f16": "fp16"}
#: float32 arithmetic, and inputs left as they are.
PINNED: Final[dict[str, Any]] = {
    "INFERENCE_PRECISION_HINT": "f32",
    "DYNAMIC_QUANTIZATION_GROUP_SIZE": 0,
}
#: Types of weights that are low precision, as OpenVINO writes them.
_INTEGERS: Final = ("i8", "u8", "i4", "u4")
_LOW: Final = (*_INTEGERS, "nf4", "f8e4m3", "f8e5m2", "f4e2m1")


def compile_model(
    data: bytes,
    settings: Mapping[str, Any],
    change: Callable[[openvino.Model], None] | None = None,
) -> openvino.CompiledModel:
    """An ONNX model compiled for the CPU, after `change` if there is one.

    Raises:
        UsageError: QUANTHARNESS_THREADS is not a whole number.
        UnsupportedError: OpenVINO has no translation of an operator or a type.
        BackendError: it does not compile for another reason.
    """
    import openvino

    config = dict(settings) | {"INFERENCE_NUM_THREADS": threads()}
    core = openvino.Core()
    try:
        model = core.read_model(data)
    except Exception as error:  # noqa: BLE001 - its classes have no common base
        raise UnsupportedError(
            f"openvino does not read the model: {line(error)}"
        ) from None
    if change is not None:
        change(model)
    try:
        return core.compile_model(model, "CPU", config)
    except Exception as error:  # noqa: BLE001
        raise BackendError(
            f"openvino does not compile the model: {line(error)}"
        ) from None


@functools.cache
def reads(element: int) -> str:
    """Why OpenVINO does not read an ONNX element type; "" if it does.

    Found out by compiling two casts, once a process.
    """
    from onnx import TensorProto

    try:
        compile_model(there_and_back(element).SerializeToString(), {})
    except HarnessError:
        name = TensorProto.DataType.Name(element)
        return f"OpenVINO {version('openvino')} does not read {name}"
    return ""


def query(data: bytes, settings: Mapping[str, Any]) -> list[Finding]:
    """Operators that OpenVINO does not read or the CPU plugin does not run.

    And the type that products are computed in, where it is not the model's.
    """
    import openvino

    core = openvino.Core()
    try:
        model = core.read_model(data)
    except Exception as error:  # noqa: BLE001 - its classes have no common base
        return [Finding("missing", "the model", 1, line(error))]
    supported = core.query_model(model, "CPU", dict(settings))
    missing = Counter(
        node.get_type_name()
        for node in model.get_ordered_ops()
        if node.get_friendly_name() not in supported
    )
    found = [
        Finding("missing", name, count, "the CPU plugin does not run it")
        for name, count in missing.items()
    ]
    hint = settings.get("INFERENCE_PRECISION_HINT")
    if hint is None:
        hint = core.get_property("CPU", "INFERENCE_PRECISION_HINT").to_string()
    if hint != "f32":
        products = sum(
            node.get_type_name() in ("MatMul", "Convolution", "GroupConvolution")
            for node in model.get_ordered_ops()
        )
        detail = f"computed in {hint} by default; openvino@f32 is not"
        found.append(Finding("cast", "MatMul and Conv", products, detail))
    return found


def line(error: Exception) -> str:
    """What OpenVINO says, in one line: its last sentences name the cause."""
    return " ".join(str(error).split())[-400:]


def precision_of(compiled: openvino.CompiledModel) -> str:
    """The inference precision in force: "fp32", "bf16" or "fp16"."""
    found = compiled.get_property("INFERENCE_PRECISION_HINT")
    return PRECISIONS[found.to_string()]


@dataclass(frozen=True)
class Product:
    """One layer that multiplies."""

    #: Names of the nodes that it was merged from.
    names: frozenset[str]
    #: "brgconv_avx512_bf16"; of a FullyConnected that has not run yet its precision.
    kernel: str
    #: Whether it multiplies codes.
    low: bool
    #: Type of the weights that it reads, as OpenVINO calls it: "nf4", "f32".
    weights: str
    #: Whether OpenVINO quantizes its input by itself, whatever the graph says.
    unasked: bool


def products(compiled: openvino.CompiledModel) -> list[Product]:
    """The layers that multiply.

    With a dynamic quantization group, the input of a FullyConnected whose weights are
    integers is quantized to INT8, each group with a scale of its own.
    """
    group = compiled.get_property("DYNAMIC_QUANTIZATION_GROUP_SIZE")
    found = []
    for node in compiled.get_runtime_model().get_ordered_ops():
        info = {key: str(value.value) for key, value in node.get_rt_info().items()}
        if info["layerType"] not in _PRODUCTS:
            continue
        kernel = info["primitiveType"].replace("undef_", f"{info['layerType']} ")
        low = kernel.lower().endswith(_INTEGERS)
        weights = info["runtimePrecision"]
        full = info["layerType"] == "FullyConnected"
        unasked = bool(group) and full and weights in _INTEGERS and not low
        if unasked:
            kernel = f"FullyConnected i8, its input quantized in groups of {group}"
        names = frozenset(info["originalLayersNames"].split(","))
        found.append(Product(names, kernel, low or unasked, weights, unasked))
    return found


def constants(compiled: openvino.CompiledModel) -> Counter[str]:
    """Element types of the constants that it holds -> how many, low precision only."""
    return Counter(
        name
        for node in compiled.get_runtime_model().get_ordered_ops()
        if str(node.get_rt_info()["layerType"].value) == "Const"
        and (name := node.get_output_element_type(0).get_type_name()) in _LOW
    )
