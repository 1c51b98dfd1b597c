"""How many threads an engine may use: `QUANTHARNESS_THREADS`, for every backend."""

from __future__ import annotations

import os
from typing import Final

from harness.errors import UsageError

_VARIABLE: Final = "QUANTHARNESS_THREADS"


def threads() -> int:
    """Threads of an engine; 0: as many as it likes, which is what unset means.

    Raises:
        UsageError: the variable is not a whole number.
    """
    given = os.environ.get(_VARIABLE, "")
    if given and not given.isdecimal():
        raise UsageError(f"{_VARIABLE}={given!r}, but should be a whole number; 0: all")
    return int(given or 0)
