"""Cases by tag: averages hide what breaks only for long, coded or numeric cases."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Final

from harness.judge.levels import ALPHA

#: Tags that say what a case was taken from: cases of one document or prompt are not
#: independent, and are resampled together.
SOURCES: Final = ("document:", "prompt:")


def clusters_of(
    tags: Mapping[str, tuple[str, ...]], cases: Sequence[str]
) -> tuple[str, ...] | None:
    """The document or prompt of every case; None when no case names one.

    A case without such a tag is a cluster of its own.
    """
    named = [
        next((tag for tag in tags.get(case, ()) if tag.startswith(SOURCES)), "")
        for case in cases
    ]
    if not any(named):
        return None
    return tuple(tag or f"case:{case}" for tag, case in zip(named, cases, strict=True))


def slices(
    tags: Mapping[str, tuple[str, ...]],
    cases: Sequence[str],
    *,
    least: int | None = None,
) -> dict[str, list[int]]:
    """Tag -> positions in `cases`, for tags that some but not all cases have.

    Args:
        tags: case -> its tags.
        cases: in the order of the measurements.
        least: fewer cases than this are no slice; None: so many that losing all
            their answers would be seen among as many slices as there are tags (a
            sign test of n cases cannot give less than 2**-n).
    """
    found: dict[str, list[int]] = {}
    for position, case in enumerate(cases):
        for tag in tags.get(case, ()):
            if tag.startswith(SOURCES):
                continue
            found.setdefault(tag, []).append(position)
    if least is None:
        least = math.ceil(math.log2(max(1, len(found)) / ALPHA))
    return {
        tag: positions
        for tag, positions in sorted(found.items())
        if least <= len(positions) < len(cases)
    }
