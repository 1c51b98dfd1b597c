"""Cases by tag: averages hide what breaks only for long, coded or numeric cases."""

from __future__ import annotations

from collections.abc import Mapping, Sequence


def slices(
    tags: Mapping[str, tuple[str, ...]], cases: Sequence[str], *, least: int = 2
) -> dict[str, list[int]]:
    """Tag -> positions in `cases`, for tags that some but not all cases have.

    Args:
        tags: case -> its tags.
        cases: in the order of the measurements.
        least: fewer cases than this are no slice.
    """
    found: dict[str, list[int]] = {}
    for position, case in enumerate(cases):
        for tag in tags.get(case, ()):
            found.setdefault(tag, []).append(position)
    return {
        tag: positions
        for tag, positions in sorted(found.items())
        if least <= len(positions) < len(cases)
    }
