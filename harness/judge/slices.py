"""Cases by tag: averages hide what breaks only for long, coded or numeric cases."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from harness.judge.levels import ALPHA


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
            found.setdefault(tag, []).append(position)
    if least is None:
        least = math.ceil(math.log2(max(1, len(found)) / ALPHA))
    return {
        tag: positions
        for tag, positions in sorted(found.items())
        if least <= len(positions) < len(cases)
    }
