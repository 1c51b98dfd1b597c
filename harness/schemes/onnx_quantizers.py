"""Quantizers of ONNX that are called in this process: ONNX Runtime's and NNCF's."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from harness.errors import UsageError
from harness.models.types import Model

Array = np.ndarray[Any, np.dtype[Any]]
Feeds = Mapping[str, Array]


def ort_function(name: str) -> Callable[[], Callable[..., Any]]:
    """What imports a function of ONNX Runtime's, whose parameters are the options."""

    def function() -> Callable[..., Any]:
        from onnxruntime import quantization

        found: Callable[..., Any] = getattr(quantization, name)
        return found

    return function


def nncf_function(name: str) -> Callable[[], Callable[..., Any]]:
    """What imports a function of NNCF's."""

    def function() -> Callable[..., Any]:
        import nncf

        found: Callable[..., Any] = getattr(nncf, name)
        return found

    return function


def ort_dynamic(
    model: Model,
    _: Sequence[Feeds],
    options: dict[str, Any],
    file: Path,
) -> None:
    """ONNX Runtime's `quantize_dynamic`, which is shown no call."""
    ort_function("quantize_dynamic")()(model.onnx(), str(file), **_ort_options(options))


def ort_static(
    model: Model,
    calls: Sequence[Feeds],
    options: dict[str, Any],
    file: Path,
) -> None:
    """ONNX Runtime's `quantize_static`, calibrated with the calls."""
    from onnxruntime.quantization import CalibrationDataReader

    class Reader(CalibrationDataReader):  # type: ignore[misc]  # untyped
        def __init__(self) -> None:
            self._calls = iter(calls)

        def get_next(self) -> Feeds | None:
            return next(self._calls, None)

    ort_function("quantize_static")()(
        model.onnx(), str(file), Reader(), **_ort_options(options)
    )


def _ort_options(options: dict[str, Any]) -> dict[str, Any]:
    """Values of enumerations by their names."""
    from onnxruntime.quantization import CalibrationMethod, QuantFormat, QuantType

    kinds = {
        "weight_type": QuantType,
        "activation_type": QuantType,
        "quant_format": QuantFormat,
        "calibrate_method": CalibrationMethod,
    }
    return {key: _member(kinds, key, value) for key, value in options.items()}


def nncf_quantize(
    model: Model,
    calls: Sequence[Feeds],
    options: dict[str, Any],
    file: Path,
) -> None:
    """NNCF's `quantize`, calibrated with the calls."""
    import nncf
    import onnx

    data = nncf.Dataset([dict(call) for call in calls])
    options.setdefault("subset_size", len(calls))
    onnx.save(nncf.quantize(model.onnx(), data, **_nncf_options(options)), str(file))


def nncf_compress_weights(
    model: Model,
    _: Sequence[Feeds],
    options: dict[str, Any],
    file: Path,
) -> None:
    """NNCF's `compress_weights`, which is shown no call."""
    import nncf
    import onnx

    onnx.save(nncf.compress_weights(model.onnx(), **_nncf_options(options)), str(file))


def _nncf_options(options: dict[str, Any]) -> dict[str, Any]:
    import nncf

    kinds = {
        "mode": nncf.CompressWeightsMode,
        "preset": nncf.QuantizationPreset,
        "target_device": nncf.TargetDevice,
        "model_type": nncf.ModelType,
    }
    made = {key: _member(kinds, key, value) for key, value in options.items()}
    if "ignored_scope" in made:
        made["ignored_scope"] = nncf.IgnoredScope(**made["ignored_scope"])
    return made


def _member(kinds: Mapping[str, Any], key: str, value: Any) -> Any:
    if key not in kinds:
        return value
    known = [name for name in dir(kinds[key]) if name[0].isupper()]
    if value not in known:
        raise UsageError(
            f"options.{key}={value!r}, but should be one of {', '.join(known)}"
        )
    return getattr(kinds[key], value)
