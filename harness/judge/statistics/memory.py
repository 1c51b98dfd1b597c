"""Resampling once what is asked for twice: for its p-value, and at its level."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, TypeVar

import numpy as np

Result = TypeVar("Result")

#: Results kept, of about 16 KiB each.
_KEPT = 1024


def remembered(function: Callable[..., Result]) -> Callable[..., Result]:
    """The same pure function of float64 arrays and hashable options, remembered.

    Its arrays are handed over read-only. An option that is a list becomes a tuple.
    """

    @functools.lru_cache(_KEPT)
    def compute(arrays: tuple[bytes, ...], options: tuple[tuple[str, Any], ...]) -> Any:
        return function(*(np.frombuffer(data) for data in arrays), **dict(options))

    @functools.wraps(function)
    def ask(*arrays: Any, **options: Any) -> Result:
        data = tuple(np.asarray(a, dtype=np.float64).tobytes() for a in arrays)
        plain = tuple(
            (name, tuple(value) if isinstance(value, list) else value)
            for name, value in sorted(options.items())
        )
        found: Result = compute(data, plain)
        return found

    return ask
