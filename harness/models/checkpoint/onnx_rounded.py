"""Codes that `QuantizeLinear` makes of a constant: a weight that is stored in float32.

NVIDIA ModelOpt writes weights so, and TensorRT rounds them when it builds its engine.
The codes are found here as ONNX defines them, not as an engine finds them.
"""

from __future__ import annotations

from typing import Any, Final

import numpy as np

from harness.errors import ModelError
from harness.models.checkpoint.onnx_codes import FORMATS_OF_ONNX
from harness.numerics import encode, find_format

Array = np.ndarray[Any, np.dtype[Any]]

#: ONNX element types to which weights are rounded.
_KINDS: Final = ("int8", "uint8", "float8e4m3fn", "float8e5m2")


def rounded_codes(
    weight: Array, scales: Array, points: Array | None, kind: str, axis: int
) -> Array:
    """Codes of weight / scale + zero point: to the nearest, ties to even, saturated.

    Both steps are float32's. Zeros keep their sign in FP8; NaN and Inf are refused.

    Args:
        weight: float32, finite.
        scales: float32, one, or one an index of the axis.
        points: zero points of the scales' shape; None: 0.
        kind: ONNX element type of the codes.
        axis: along which scales differ.

    Returns:
        Codes in the weight's shape: of the integer's own type, or uint8 bits of FP8.

    Raises:
        ModelError: another type of weight, scales or codes, or numbers without a code.
    """
    for array, what in ((weight, "its weight"), (scales, "the scale of its weight")):
        if array.dtype != np.float32:
            raise ModelError(
                f"{what} is {array.dtype}, and is rounded when it runs: that is read "
                "of float32 alone"
            )
    if not np.isfinite(weight).all():
        raise ModelError("its weight has NaN or infinite numbers before it is rounded")
    if not (np.isfinite(scales) & (scales > 0)).all():
        raise ModelError("its weight is rounded with scales that are not above 0")
    if kind not in _KINDS:
        raise ModelError(f"its weight is rounded to {kind}, which is not read here")
    name = FORMATS_OF_ONNX[kind]
    ratio = weight / _spread(scales, weight.ndim, axis)
    if find_format(name).kind == "float":
        codes: Array = encode(ratio, name)
        return codes
    held = np.iinfo(kind)
    zero = 0 if points is None else _spread(points.astype(np.int32), weight.ndim, axis)
    whole = np.rint(ratio).astype(np.float64) + zero
    return np.clip(whole, held.min, held.max).astype(kind)


def _spread(values: Array, rank: int, axis: int) -> Array:
    """One value, or one an index of the axis, that broadcasts over the weight.

    Raises:
        ModelError: neither.
    """
    if values.size == 1:
        return values.reshape(())
    if values.ndim != 1:
        raise ModelError(f"its weight is rounded with scales {list(values.shape)}")
    shape = [1] * rank
    shape[axis % rank] = values.size
    return values.reshape(shape)
