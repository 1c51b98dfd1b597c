"""Resize: every axis is a product with a small matrix of interpolation weights."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

import torch

from harness.errors import UnsupportedError
from harness.models.graph_ops.common import Attributes, T, given, ints

#: Where an output position lies on the input axis: (position, scale, in, out) -> float.
_COORDINATES: Final[Mapping[str, Callable[[T, float, int, int], T]]] = {
    "half_pixel": lambda p, s, _, __: (p + 0.5) / s - 0.5,
    "pytorch_half_pixel": lambda p, s, _, out: (
        (p + 0.5) / s - 0.5 if out > 1 else torch.zeros_like(p)
    ),
    "asymmetric": lambda p, s, _, __: p / s,
    "align_corners": lambda p, _, n, out: (
        p * (n - 1) / (out - 1) if out > 1 else torch.zeros_like(p)
    ),
}
_NEAREST: Final[Mapping[str, Callable[[T], T]]] = {
    "round_prefer_floor": lambda p: torch.ceil(p - 0.5),
    "round_prefer_ceil": lambda p: torch.floor(p + 0.5),
    "floor": torch.floor,
    "ceil": torch.ceil,
}


def resize(x: Sequence[Any], a: Attributes, _: torch.dtype) -> T:
    """Nearest, linear and cubic, without antialiasing.

    Raises:
        UnsupportedError: an attribute with another meaning than these.
    """
    mode = a.get("coordinate_transformation_mode", "half_pixel")
    keep = a.get("keep_aspect_ratio_policy", "stretch")
    if mode not in _COORDINATES or a.get("antialias", 0) or keep != "stretch":
        raise UnsupportedError(
            f"Resize with coordinate_transformation_mode={mode!r}, antialias="
            f"{a.get('antialias', 0)}, {keep} is not run in torch"
        )
    data: T = x[0]
    axes = [axis % data.ndim for axis in a.get("axes", range(data.ndim))]
    sizes, scales = given(x, 3), given(x, 2)
    for place, axis in enumerate(axes):
        length = data.shape[axis]
        if sizes is not None and sizes.numel():
            out = ints(sizes)[place]
            scale = out / length
        else:
            scale = float(scales.reshape(-1)[place])
            out = int(length * scale)
            if mode == "align_corners" and out != length * scale:
                # The specification counts fractions of an element, ONNX Runtime not.
                raise UnsupportedError(
                    f"Resize by {scale} of {length} elements with align_corners is "
                    "not run in torch"
                )
        if out != length or scale != 1:
            weights = _weights(length, out, scale, mode, a).to(data)
            data = torch.tensordot(data, weights, dims=([axis], [1])).movedim(-1, axis)
    return data


def _weights(length: int, out: int, scale: float, mode: str, a: Attributes) -> T:
    """(out, length): how much of each input element is in each output element."""
    positions = torch.arange(out, dtype=torch.float64)
    where = _COORDINATES[mode](positions, scale, length, out)
    kind = a.get("mode", "nearest")
    if kind == "nearest":
        how = a.get("nearest_mode", "round_prefer_floor")
        taps = [(_NEAREST[how](where), torch.ones_like(where))]
    elif kind == "linear":
        low = torch.floor(where)
        taps = [(low, 1 - (where - low)), (low + 1, where - low)]
    else:
        taps = _cubic(where, float(a.get("cubic_coeff_a", -0.75)))
    weights = torch.zeros(out, length, dtype=torch.float64)
    outside = a.get("exclude_outside", 0) and kind == "cubic"
    for index, weight in taps:
        inside = (index >= 0) & (index < length)
        share = torch.where(inside, weight, 0.0) if outside else weight
        column = index.clamp(0, length - 1).to(torch.int64)
        weights[torch.arange(out), column] += share
    return weights / weights.sum(1, keepdim=True) if outside else weights


def _cubic(where: T, c: float) -> list[tuple[T, T]]:
    """Keys' cubic convolution kernel at the four neighbours (IEEE ASSP 29, 1981)."""
    low = torch.floor(where)
    taps = []
    for offset in (-1, 0, 1, 2):
        d = (where - low - offset).abs()
        near = (c + 2) * d**3 - (c + 3) * d**2 + 1
        far = c * d**3 - 5 * c * d**2 + 8 * c * d - 4 * c
        taps.append((low + offset, torch.where(d <= 1, near, far)))
    return taps
