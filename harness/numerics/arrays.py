"""NumPy arrays and torch tensors as one: in without a copy, out to the same device."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import ml_dtypes
import numpy as np

from harness.errors import NumericsError

Array = np.ndarray[Any, np.dtype[Any]]
Back = Callable[[Array], Any]


def as_numpy(x: Any) -> tuple[Array, Back]:
    """The values as a NumPy array, and a function that brings a result back.

    A torch tensor on the CPU shares its memory; one on another device is copied to
    the host, and results are copied to that device. bfloat16 tensors come as
    `ml_dtypes.bfloat16`.

    Raises:
        NumericsError: an array of objects or strings.
    """
    if is_torch(x):
        return _from_torch(x)
    array = np.asarray(x)
    if array.dtype.kind in "OUSMm":
        raise NumericsError(
            f"dtype={array.dtype}, but should be numeric; give the array a dtype first"
        )
    return array, lambda result: result


def is_torch(x: Any) -> bool:
    """Whether `x` is a torch tensor, without importing torch."""
    return type(x).__module__.split(".")[0] == "torch" and hasattr(x, "device")


def _from_torch(x: Any) -> tuple[Array, Back]:
    import torch

    device = x.device
    tensor = x.detach().cpu()
    if tensor.dtype == torch.bfloat16:
        array = tensor.view(torch.int16).numpy().view(ml_dtypes.bfloat16)
    elif tensor.dtype.is_floating_point and tensor.element_size() == 1:
        array = tensor.view(torch.uint8).numpy()
    else:
        array = tensor.numpy()

    def back(result: Array) -> Any:
        return torch.from_numpy(np.require(result, requirements=("C", "W"))).to(device)

    return array, back


def floating(array: Array) -> Array:
    """The array, if it is float16, bfloat16, float32 or float64 in native order.

    Raises:
        NumericsError: it is not floating point, or a type we do not round from.
    """
    if array.dtype.name in ("float16", "bfloat16", "float32", "float64"):
        return array.astype(array.dtype.newbyteorder("="), copy=False)
    raise NumericsError(
        f"dtype={array.dtype}, but should be floating point (float16, bfloat16, "
        "float32 or float64); convert it on purpose"
    )


def widened(array: Array) -> Array:
    """float32 or float64 that holds the same values exactly."""
    if array.dtype.name in ("float32", "float64"):
        return array
    if array.dtype.name == "bfloat16":
        bits = array.view(np.uint16).astype(np.uint32)
        np.left_shift(bits, np.uint32(16), out=bits)
        return bits.view(np.float32)
    return array.astype(np.float32)


def integer_codes(codes: Array, bits: int) -> Array:
    """Codes as uint8 (or uint16), checked to fit their width.

    Signed integers are taken as two's complement: -1 is the code 255 (or 15).

    Raises:
        NumericsError: not integers, or a code wider than the format.
    """
    kind = np.uint16 if bits == 16 else np.uint8
    if codes.dtype.name.startswith("float") and codes.dtype.itemsize == 1:
        codes = codes.view(np.uint8)
    if codes.dtype.kind not in "iu":
        raise NumericsError(f"codes have dtype={codes.dtype}, but should be uint8")
    if codes.size and not (codes.dtype == kind and bits in (8, 16)):
        low, high = int(codes.min()), int(codes.max())
        if low < -(1 << (bits - 1)) or high >= 1 << bits:
            worst = high if high >= 1 << bits else low
            raise NumericsError(
                f"code {worst} does not fit {bits} bits; packed codes are unpacked "
                "with harness.numerics.unpack first"
            )
        if low < 0:
            codes = codes & ((1 << bits) - 1)
    return codes.astype(kind, copy=False)
