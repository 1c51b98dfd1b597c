"""What can be compared: NumPy arrays of any real dtype, and torch tensors.

A torch tensor on a processor is viewed, not copied. `bfloat16` and the FP8 types,
which NumPy does not have, are viewed as their `ml_dtypes` namesakes.
"""

from __future__ import annotations

from typing import Any, Final

import ml_dtypes
import numpy as np

from harness.errors import UsageError

Array = np.ndarray[Any, np.dtype[Any]]

#: torch dtype -> (torch integer type of its width, NumPy dtype of its bits).
_VIEWS: Final = {
    "bfloat16": ("int16", np.dtype(ml_dtypes.bfloat16)),
    "float8_e4m3fn": ("uint8", np.dtype(ml_dtypes.float8_e4m3fn)),
    "float8_e5m2": ("uint8", np.dtype(ml_dtypes.float8_e5m2)),
    "float8_e4m3fnuz": ("uint8", np.dtype(ml_dtypes.float8_e4m3fnuz)),
    "float8_e5m2fnuz": ("uint8", np.dtype(ml_dtypes.float8_e5m2fnuz)),
    "float8_e8m0fnu": ("uint8", np.dtype(ml_dtypes.float8_e8m0fnu)),
}


def as_array(value: Any, *, name: str = "array") -> Array:
    """A NumPy array of `value`; no copy for NumPy arrays and torch tensors on a CPU.

    Raises:
        UsageError: it has no real numbers (complex, text, objects); names `name`.
    """
    array = _from_torch(value) if hasattr(value, "detach") else np.asarray(value)
    if not is_real(array.dtype):
        raise UsageError(
            f"{name} has dtype {array.dtype}, but only real numbers can be compared"
        )
    return array


def is_real(dtype: np.dtype[Any]) -> bool:
    """Whether it is bool, an integer or a float, the types of ml_dtypes included."""
    if dtype.kind in "fiub":
        return True
    return dtype.kind == "V" and hasattr(ml_dtypes, dtype.name)


def _from_torch(tensor: Any) -> Array:
    plain = tensor.detach().cpu()
    name = str(plain.dtype).removeprefix("torch.")
    if name not in _VIEWS:
        return np.asarray(plain.resolve_conj().resolve_neg().numpy())
    import torch

    integer, dtype = _VIEWS[name]
    bits: Array = plain.view(getattr(torch, integer)).numpy()
    return bits.view(dtype)
