"""Identity of content: names, dtypes, shapes and bytes in order; never of a file.

`content-v1` is SHA-256 over, for every array in order of name: the name, the dtype's
name, the shape and the bytes in C order, each preceded by its length. Two files with
the same tensors have the same digest whatever wrote them; a changed sign of a zero
has another.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from harness.models.types import Case

Array = np.ndarray[Any, np.dtype[Any]]


def content_digest(arrays: Mapping[str, Array], *, extra: Any = None) -> str:
    """`content-v1:<hex>` of named arrays and, if given, of a JSON-able value."""
    return digest_of((name, arrays[name]) for name in sorted(arrays)).finish(extra)


class _Digest:
    def __init__(self) -> None:
        self.hash = hashlib.sha256()

    def text(self, value: str) -> None:
        data = value.encode()
        self.hash.update(len(data).to_bytes(8, "little"))
        self.hash.update(data)

    def array(self, name: str, array: Array) -> None:
        self.text(name)
        self.text(array.dtype.name)
        self.text(json.dumps(list(array.shape)))
        self.hash.update(array.nbytes.to_bytes(8, "little"))
        contiguous = np.ascontiguousarray(array)
        self.hash.update(contiguous.reshape(-1).view(np.uint8).data)

    def finish(self, extra: Any = None) -> str:
        if extra is not None:
            self.text(json.dumps(extra, sort_keys=True))
        return f"content-v1:{self.hash.hexdigest()}"


def digest_of(arrays: Iterable[tuple[str, Array]]) -> _Digest:
    """A digest fed with arrays already in order of name."""
    digest = _Digest()
    for name, array in arrays:
        digest.array(name, array)
    return digest


def cases_fingerprint(cases: Sequence[Case]) -> str:
    """Digest of every case's tensors, expectation, id and original, in order."""
    digest = _Digest()
    for case in cases:
        digest.text(case.id)
        for name in sorted(case.inputs):
            digest.array(name, case.inputs[name])
        digest.text(json.dumps(dict(case.expected), sort_keys=True, default=str))
        if case.variant_of:
            digest.text(f"variant of {case.variant_of}")
    return digest.finish()
