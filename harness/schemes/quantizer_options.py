"""Options of a scheme's table, held against the parameters of a quantizer."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence

from harness.errors import UsageError


def check_options(name: str, options: Iterable[str], known: Sequence[str]) -> None:
    """Whether a quantizer has all of these options.

    Raises:
        UsageError: it has not; says which one was probably meant.
    """
    for key in options:
        if key not in known:
            close = difflib.get_close_matches(key, known, n=1)
            hint = f"did you mean {close[0]!r}?" if close else f"known: {list(known)}"
            raise UsageError(f"{name} has no option {key!r}; {hint}")
