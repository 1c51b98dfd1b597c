"""Qualcomm's QNN as a plugin of ONNX Runtime: its registration and its devices.

On x86 its HTP backend is a simulator of the NPU. It takes no dynamic shapes: a node
whose shapes are not known when the session opens is not its.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping
from typing import TYPE_CHECKING, Final

from harness.errors import MissingExtraError, UnsupportedError
from harness.schemes.types import Scheme

if TYPE_CHECKING:
    import onnxruntime

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


def refuses(scheme: Scheme) -> str:
    """Why the HTP is not given a scheme; "" if it is.

    Its weights are INT8 in Q/DQ, its inputs too or as they are, its results INT8,
    INT16 or as they are. Of any other format
    the CPU would decode the weights, and round the inputs, in the NPU's name.
    """
    weights, inputs = scheme.weights, scheme.activations
    if weights is None or weights.format != "int8" or weights.granularity == "block":
        held = "no weights" if weights is None else f"{weights.format} weights"
        return f"QNN's HTP takes INT8 weights, a scale a channel or one, not {held}"
    if inputs is not None and (inputs.format != "int8" or inputs.dynamic):
        kind = "dynamic" if inputs.dynamic else "static"
        return f"QNN's HTP takes static INT8 inputs, not {kind} {inputs.format}"
    return ""
