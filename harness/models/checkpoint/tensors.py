"""Safetensors files read tensor by tensor: the header first, bytes when asked for.

Every dtype that quantizers store is known here, FP8 and its scales included, and what
is wrong with a file is said in words: a git-LFS pointer, a download that broke off,
offsets that do not fit.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import ml_dtypes
import numpy as np

from harness.errors import ModelError

Array = np.ndarray[Any, np.dtype[Any]]

#: Safetensors' name of a dtype -> NumPy's.
DTYPES: Final[dict[str, Any]] = {
    "F64": np.float64,
    "F32": np.float32,
    "F16": np.float16,
    "BF16": ml_dtypes.bfloat16,
    "F8_E4M3": ml_dtypes.float8_e4m3fn,
    "F8_E5M2": ml_dtypes.float8_e5m2,
    "F8_E8M0": ml_dtypes.float8_e8m0fnu,
    "F8_E4M3FNUZ": ml_dtypes.float8_e4m3fnuz,
    "F8_E5M2FNUZ": ml_dtypes.float8_e5m2fnuz,
    "I64": np.int64,
    "I32": np.int32,
    "I16": np.int16,
    "I8": np.int8,
    "U64": np.uint64,
    "U32": np.uint32,
    "U16": np.uint16,
    "U8": np.uint8,
    "BOOL": np.bool_,
}
#: Longest header that a reader accepts: the format's own limit, in bytes.
_LONGEST: Final = 100_000_000
_POINTER: Final = b"version https://git-lfs"


@dataclass(frozen=True)
class StoredTensor:
    """Where a tensor lies; nothing of it is read yet."""

    name: str
    file: Path
    #: Safetensors' name, as "BF16".
    dtype: str
    shape: tuple[int, ...]
    #: First byte in the file, and how many.
    offset: int
    nbytes: int

    def read(self) -> Array:
        """The values, in their own dtype.

        Raises:
            ModelError: the file is shorter than its header says.
        """
        data = bytearray(self.nbytes)
        with self.file.open("rb") as stream:
            stream.seek(self.offset)
            found = stream.readinto(data)
        if found != self.nbytes:
            raise ModelError(f"{self.file}: breaks off inside {self.name}")
        return np.frombuffer(data, DTYPES[self.dtype]).reshape(self.shape)

    @property
    def is_float(self) -> bool:
        """Whether it holds values of 16 bits or more, as unquantized weights do."""
        return self.dtype in ("F64", "F32", "F16", "BF16")


def read_header(file: Path) -> dict[str, StoredTensor]:
    """The tensors of a file by name; only its header is read.

    Raises:
        ModelError: not a safetensors file, truncated, or offsets that do not fit.
    """
    try:
        size = file.stat().st_size
        with file.open("rb") as stream:
            start = stream.read(24)
            if start == _POINTER[:24] or start.startswith(_POINTER[:20]):
                raise ModelError(
                    f"{file}: a git-LFS pointer, not the weights: run `git lfs pull`"
                )
            length = int.from_bytes(start[:8], "little")
            if size < 8 or length > min(_LONGEST, size - 8):
                raise ModelError(
                    f"{file}: {size} bytes, but its header says {length + 8} and more: "
                    "truncated, or not safetensors; download it again"
                )
            stream.seek(8)
            header = json.loads(stream.read(length))
    except OSError as error:
        raise ModelError(f"{file}: cannot be read: {error.strerror}") from None
    except ValueError as error:
        raise ModelError(f"{file}: its header is not JSON ({error})") from None
    if not isinstance(header, dict):
        raise ModelError(f"{file}: its header is not a JSON object")
    header.pop("__metadata__", None)
    return {
        name: _stored(name, value, file, 8 + length, size)
        for name, value in header.items()
    }


def _stored(name: str, value: Any, file: Path, start: int, size: int) -> StoredTensor:
    """One entry of a header.

    Raises:
        ModelError: it is malformed, of an unknown dtype, or beyond the file's end.
    """
    try:
        dtype, shape = str(value["dtype"]), tuple(int(n) for n in value["shape"])
        first, last = (int(n) for n in value["data_offsets"])
    except (KeyError, TypeError, ValueError):
        raise ModelError(f"{file}: the header's entry of {name} is malformed") from None
    if dtype not in DTYPES:
        raise ModelError(
            f"{file}: {name} has dtype={dtype}, but should be one of "
            f"{', '.join(DTYPES)}"
        )
    wanted = math.prod(shape) * np.dtype(DTYPES[dtype]).itemsize
    if min(shape, default=0) < 0 or first < 0 or last - first != wanted:
        raise ModelError(
            f"{file}: {name} has {last - first} bytes, but {dtype} of "
            f"{list(shape)} should be {wanted}"
        )
    if start + last > size:
        raise ModelError(
            f"{file}: {size} bytes, but {name} ends at {start + last}: truncated; "
            "download it again"
        )
    return StoredTensor(name, file, dtype, shape, start + first, wanted)
