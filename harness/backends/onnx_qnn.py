"""Qualcomm's QNN as a plugin of ONNX Runtime: its registration, devices and shapes.

On x86 its HTP backend is a simulator of the NPU. It takes no dynamic shapes: a node
whose shapes are not known when the session opens is not its.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from harness.errors import MissingExtraError, UnsupportedError

if TYPE_CHECKING:
    import onnxruntime

Array = np.ndarray[Any, np.dtype[Any]]
#: Name and value of every input's shape, sorted: what a session is opened for.
Shapes = tuple[tuple[str, tuple[int, ...]], ...]

QNN: Final = "QNNExecutionProvider"
_PACKAGE: Final = "onnxruntime_qnn"


def register() -> None:
    """Make the plugin known to ONNX Runtime, once a process.

    Raises:
        MissingExtraError: onnxruntime-qnn is not installed.
        UnsupportedError: it does not load here, or this build has QNN compiled in.
    """
    import onnxruntime

    if QNN in onnxruntime.get_available_providers():
        return
    if importlib.util.find_spec(_PACKAGE) is None:
        raise MissingExtraError("onnxruntime-qnn", "qnn")
    import onnxruntime_qnn

    try:
        onnxruntime.register_execution_provider_library(
            QNN, onnxruntime_qnn.get_library_path()
        )
    except Exception as error:  # noqa: BLE001 - its classes have no common base
        text = " ".join(str(error).split())[:300]
        raise UnsupportedError(f"onnxruntime-qnn does not load: {text}") from None


def add_provider(
    options: onnxruntime.SessionOptions, settings: Mapping[str, str]
) -> None:
    """Ask for the plugin's devices; what it does not take stays with the CPU.

    Raises:
        UnsupportedError: the plugin shows no device on this machine.
    """
    import onnxruntime

    register()
    devices = [d for d in onnxruntime.get_ep_devices() if d.ep_name == QNN]
    if not devices:
        raise UnsupportedError("onnxruntime-qnn finds no device on this machine")
    options.add_provider_for_devices(devices, dict(settings))


def shapes_of(feeds: Mapping[str, Array]) -> Shapes:
    """The shapes of a call's inputs."""
    return tuple(sorted((name, value.shape) for name, value in feeds.items()))


def with_shapes(data: bytes, shapes: Shapes) -> bytes:
    """The serialized model for inputs of these shapes alone; the rest is inferred.

    Shapes that contradict the model's fixed axes are left to the session to refuse.
    """
    import onnx

    model = onnx.ModelProto()
    model.ParseFromString(data)
    known = dict(shapes)
    for value in model.graph.input:
        axes = value.type.tensor_type.shape.dim
        found = known.get(value.name, ())
        for axis, length in zip(axes, found, strict=False):
            if not axis.HasField("dim_value"):
                axis.dim_value = length
    # Inferred anew: what the file says of them may name axes that are gone.
    del model.graph.value_info[:]
    for value in model.graph.output:
        value.type.tensor_type.ClearField("shape")
    fixed: bytes = onnx.shape_inference.infer_shapes(
        model, data_prop=True
    ).SerializeToString()
    return fixed


def any_shapes(data: bytes, length: int) -> Shapes:
    """Shapes with every axis of unknown length as long as this."""
    import onnx

    model = onnx.ModelProto()
    model.ParseFromString(data)
    return tuple(
        sorted(
            (
                value.name,
                tuple(
                    axis.dim_value or length
                    for axis in value.type.tensor_type.shape.dim
                ),
            )
            for value in model.graph.input
        )
    )
