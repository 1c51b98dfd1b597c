"""AMD Quark's quantizer of ONNX files, by its named configurations.

Its packages do not go with others, so it runs in an environment of its own
(`schemes.apart`, `quantharness setup quark`). XINT8 is what Ryzen AI deploys: scales
are powers of two.
"""

from __future__ import annotations

import dataclasses
import difflib
import enum
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np

from harness.errors import UsageError
from harness.schemes.quantizer_options import check_options

Array = np.ndarray[Any, np.dtype[Any]]
Feeds = Mapping[str, Array]

PREFIX: Final = "quark:"
ENVIRONMENT: Final = "quark"
#: Configurations of Quark 0.13 that write a file by calibrating alone. Those of MX,
#: BFP, FP16 and BF16 write operators of Quark's, which are refused with their names.
CONFIGS: Final = (
    "XINT8",
    "A8W8",
    "A16W8",
    "S8S8_AAWS",
    "U8S8_AAWS",
    "U8U8_AAWA",
    "S16S8_ASWS",
    "INT8_CNN_DEFAULT",
    "INT8_TRANSFORMER_DEFAULT",
    "FP16",
    "BF16",
    "BFP16",
    "MX6",
    "MX9",
    "MXINT8",
    "MXFP8E4M3",
    "MXFP8E5M2",
    "MXFP6E2M3",
    "MXFP6E3M2",
    "MXFP4E2M1",
)
#: Fields of its configuration that are not set: what they do is not in the file, or it
#: is encrypted.
_NOT_SET: Final = ("crypto_mode", "debug_mode", "log_severity_level", "quant_format")


def quantize(
    model: Path, calls: Sequence[Feeds], options: dict[str, Any], made: Path
) -> None:
    """Write the quantized file.

    Args:
        model: an ONNX file.
        calls: inputs to calibrate with.
        options: fields of Quark's `QuantizationConfig`, enumerations by name;
            `extra_options` are added to the configuration's own. And `config`, the
            configuration's name, which `call` adds.
        made: where to.

    Raises:
        UsageError: an option that it has not.
        Exception: whatever it raises.
    """
    from onnxruntime.quantization import CalibrationDataReader
    from quark.onnx import ModelQuantizer
    from quark.onnx.quantization.config import Config, get_default_config

    class Reader(CalibrationDataReader):  # type: ignore[misc]  # untyped
        def __init__(self) -> None:
            self.reset_iter()

        def reset_iter(self) -> None:
            self._left = iter(calls)

        def get_next(self) -> Feeds | None:
            return next(self._left, None)

        def __len__(self) -> int:
            return len(calls)

    name = options.pop("config")
    config = get_default_config(name)
    fields = [field.name for field in dataclasses.fields(config)]
    known = [field for field in fields if field not in _NOT_SET]
    check_options(f"{PREFIX}{name}", options, known)
    for key, value in options.items():
        setattr(config, key, _value(key, getattr(config, key), value))
    quantizer = ModelQuantizer(Config(global_quant_config=config))
    quantizer.quantize_model(str(model), str(made), Reader())


def _value(key: str, default: Any, value: Any) -> Any:
    """A member of an enumeration by its name; a table with the default's entries."""
    if isinstance(default, dict) and isinstance(value, dict):
        return {**default, **value}
    if not isinstance(default, enum.Enum):
        if default is not None and not isinstance(value, type(default)):
            raise UsageError(
                f"options.{key}={value!r}, but should be a {type(default).__name__}"
            )
        return value
    members = {member.name: member for kind in _kinds(key) for member in kind}
    if value in members:
        return members[value]
    close = difflib.get_close_matches(str(value), members, n=1)
    hint = f"; did you mean {close[0]!r}?" if close else ""
    raise UsageError(
        f"options.{key}={value!r}, but should be one of {', '.join(members)}{hint}"
    )


def _kinds(key: str) -> list[Any]:
    """Enumerations whose members a field takes."""
    from onnxruntime.quantization import CalibrationMethod, QuantType
    from quark.onnx import ExtendedQuantType, PowerOfTwoMethod

    if key == "calibrate_method":
        return [CalibrationMethod, PowerOfTwoMethod]
    return [QuantType, ExtendedQuantType]
