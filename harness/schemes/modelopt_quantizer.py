"""NVIDIA ModelOpt's quantizer of ONNX files: what TensorRT builds its engines of.

It is called in a process of its own (`schemes.apart`), because it replaces methods of
ONNX Runtime's quantizer.
"""

from __future__ import annotations

import inspect
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np

from harness.schemes.quantizer_options import check_options

Array = np.ndarray[Any, np.dtype[Any]]
Feeds = Mapping[str, Array]

NAME: Final = "modelopt:quantize"
#: Packages that its ONNX part imports, none of which the base package asks for.
IMPORTS: Final = (
    "modelopt",
    "onnx_graphsurgeon",
    "onnxconverter_common",
    "onnxslim",
    "polygraphy",
    "cppimport",
    "lief",
)
#: Parameters that the harness gives, or that would have it ask a network.
_GIVEN: Final = (
    "onnx_path",
    "output_path",
    "calibration_data",
    "calibration_data_reader",
    "model_id",
    "trust_remote_code",
    "kwargs",
)
#: What it takes beside its parameters.
_MORE: Final = (
    "awqclip_alpha_min",
    "awqclip_alpha_step",
    "awqclip_bsz_col",
    "awqlite_alpha_step",
    "awqlite_fuse_nodes",
    "awqlite_run_per_subgraph",
    "enable_gemv_detection_for_trt",
    "enable_mixed_quant",
    "enable_shared_constants_duplication",
    "gather_block_size",
    "gather_quantize_axis",
    "layers_8bit",
)


def leaves_inputs_alone(options: Mapping[str, Any]) -> bool:
    """Whether it rounds weights alone: the INT4 modes do."""
    return "int4" in str(options.get("quantize_mode", ""))


def quantize(
    model: Path, calls: Sequence[Feeds], options: dict[str, Any], made: Path
) -> None:
    """Write the quantized file.

    Args:
        model: an ONNX file in a folder that may be written to.
        calls: inputs to calibrate with, at least one.
        options: parameters of `modelopt.onnx.quantization.quantize`.
        made: where to.

    Raises:
        UsageError: an option that it has not.
        Exception: whatever it raises.
    """
    from modelopt.onnx.quantization import quantize as library

    parameters = [p for p in inspect.signature(library).parameters if p not in _GIVEN]
    check_options(NAME, options, [*parameters, *_MORE])
    # Its default also asks for CUDA and TensorRT.
    options.setdefault("calibration_eps", ["cpu"])
    shown = _one_shape(calls) if leaves_inputs_alone(options) else calls
    library(
        str(model),
        calibration_data_reader=_reader(shown),
        output_path=str(made),
        **options,
    )


def _one_shape(calls: Sequence[Feeds]) -> Sequence[Feeds]:
    """The calls of that shape which has the most numbers.

    AWQ concatenates what it sees along the first axis, so all else must be the same.
    """
    groups: defaultdict[tuple[Any, ...], list[Feeds]] = defaultdict(list)
    for call in calls:
        shape = tuple((name, call[name].shape[1:]) for name in sorted(call))
        groups[shape].append(call)
    return max(groups.values(), key=_numbers)


def _numbers(calls: Sequence[Feeds]) -> int:
    return sum(array.size for call in calls for array in call.values())


def _reader(calls: Sequence[Feeds]) -> Any:
    """The calls as ModelOpt asks for them: again and again, and the first apart."""
    from onnxruntime.quantization import CalibrationDataReader

    class Reader(CalibrationDataReader):  # type: ignore[misc]  # untyped
        def __init__(self) -> None:
            self.rewind()

        def rewind(self) -> None:
            self._left = iter(calls)

        def get_first(self) -> Feeds:
            return calls[0]

        def get_next(self) -> Feeds | None:
            return next(self._left, None)

    return Reader()
