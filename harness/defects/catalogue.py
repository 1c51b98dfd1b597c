"""Every defect that ships: adding one is adding a value to one of these files."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from typing import Final

from harness.defects.between import BETWEEN
from harness.defects.inputs import INPUTS
from harness.defects.language.answers import ANSWERS
from harness.defects.language.cache import CACHE
from harness.defects.language.model import MODEL
from harness.defects.language.prompts import PROMPTS
from harness.defects.outputs import OUTPUTS
from harness.defects.runtime import RUNTIME
from harness.defects.scales import SCALES
from harness.defects.stored.catalogue import STORED
from harness.defects.types import Defect
from harness.defects.weights import CODES
from harness.errors import UsageError

#: Name -> defect.
DEFECTS: Final[dict[str, Defect]] = {
    defect.name: defect
    for defect in (
        *CODES,
        *SCALES,
        *STORED,
        *INPUTS,
        *OUTPUTS,
        *BETWEEN,
        *CACHE,
        *MODEL,
        *PROMPTS,
        *ANSWERS,
        *RUNTIME,
    )
}


def find_defect(name: str, plugged: Mapping[str, Defect] | None = None) -> Defect:
    """The defect of that name, a plugin's first.

    Raises:
        UsageError: there is none; says which one was probably meant.
    """
    known = {**DEFECTS, **(plugged or {})}
    if name in known:
        return known[name]
    close = difflib.get_close_matches(name, known, n=1)
    hint = f"did you mean {close[0]!r}?" if close else f"known: {', '.join(known)}"
    raise UsageError(f"unknown defect {name!r}; {hint}")
