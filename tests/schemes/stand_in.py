"""Packages that stand in for a quantizer's, where it is called in another process."""

from __future__ import annotations

from pathlib import Path

#: What stands in for ModelOpt's function: it notes what it gets, then lets ONNX
#: Runtime quantize.
MODELOPT = """
import json, os, pathlib, sys
from onnxruntime import quantization

def quantize(onnx_path, quantize_mode="int8", calibration_data_reader=None,
             calibration_eps=("cpu", "cuda:0"), output_path=None, model_id=None,
             **kwargs):
    if quantize_mode == "raises":
        raise KeyError("no such layer")
    if quantize_mode == "dies":
        print("last words", flush=True)
        os._exit(3)
    if quantize_mode == "forgets":
        return
    first = calibration_data_reader.get_first()
    calls = list(iter(calibration_data_reader.get_next, None))
    calibration_data_reader.rewind()
    again = list(iter(calibration_data_reader.get_next, None))
    seen = {
        "eps": list(calibration_eps),
        "first": first["x"].tolist(),
        "calls": [call["x"].tolist() for call in calls],
        "again": len(again),
        "kwargs": sorted(kwargs),
        "pid": os.getpid(),
    }
    pathlib.Path(os.environ["STAND_IN_SEEN"]).write_text(json.dumps(seen))
    calibration_data_reader.rewind()
    quantization.quantize_static(onnx_path, output_path, calibration_data_reader)
"""

#: What stands in for Quark's classes.
QUARK = """
import dataclasses, enum, json, os, pathlib
from onnxruntime import quantization
from onnxruntime.quantization import CalibrationMethod

class PowerOfTwoMethod(enum.Enum):
    MinMSE = 1

class ExtendedQuantType(enum.Enum):
    QMX = 10

@dataclasses.dataclass
class QuantizationConfig:
    calibrate_method: object = CalibrationMethod.MinMax
    per_channel: bool = False
    crypto_mode: bool = False
    extra_options: dict = dataclasses.field(default_factory=lambda: {"own": 2})

def get_default_config(name):
    config = QuantizationConfig()
    config.name = name
    return config

class Config:
    def __init__(self, global_quant_config):
        self.used = global_quant_config

class ModelQuantizer:
    def __init__(self, config):
        self.used = config.used

    def quantize_model(self, model, made, reader):
        calls = list(iter(reader.get_next, None))
        reader.reset_iter()
        again = list(iter(reader.get_next, None))
        seen = {
            "config": self.used.name,
            "per_channel": self.used.per_channel,
            "calibrate_method": str(self.used.calibrate_method),
            "extra_options": self.used.extra_options,
            "calls": [call["x"].tolist() for call in calls],
            "again": len(again),
            "length": len(reader),
        }
        pathlib.Path(os.environ["STAND_IN_SEEN"]).write_text(json.dumps(seen))
        reader.reset_iter()
        quantization.quantize_static(model, made, reader)
"""


def stand_in(folder: Path, function: str, package: str, *others: str) -> Path:
    """Write modules that are found before those that are installed.

    Args:
        folder: where to; stands on the path then.
        function: source of the package's module.
        package: its dotted name.
        others: packages that only have to be there.
    """
    parts = package.split(".")
    for count in range(1, len(parts)):
        inner = folder.joinpath(*parts[:count])
        inner.mkdir(parents=True, exist_ok=True)
        (inner / "__init__.py").write_text("")
    folder.joinpath(*parts[:-1], f"{parts[-1]}.py").write_text(function)
    for other in others:
        (folder / f"{other}.py").write_text("")
    return folder
