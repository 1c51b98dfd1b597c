"""Which targets of some suites are run."""

from __future__ import annotations

import difflib
from collections.abc import Sequence

from harness.errors import UsageError
from harness.execution.suite import Suite, Target


def select(
    suites: Sequence[Suite],
    backends: Sequence[str] | None,
    schemes: Sequence[str] | None,
    *,
    nightly: bool = False,
) -> list[tuple[Suite, Target]]:
    """The targets that the filters leave; those of the nightly only if asked for.

    Raises:
        UsageError: a filter names something no suite has, or leaves nothing.
    """
    pairs = [(suite, target) for suite in suites for target in suite.targets]
    for option, wanted, have in (
        ("--backend", backends, {target.backend for _, target in pairs}),
        ("--scheme", schemes, {target.scheme.name for _, target in pairs}),
    ):
        for name in wanted or ():
            if name in have:
                continue
            close = difflib.get_close_matches(name, have, n=1)
            hint = f"; did you mean {close[0]!r}?" if close else ""
            raise UsageError(
                f"{option} {name}: no suite here has such a target{hint} "
                f"(targets have {', '.join(sorted(have))})"
            )
    chosen = [
        (suite, target)
        for suite, target in pairs
        if (not backends or target.backend in backends)
        and (not schemes or target.scheme.name in schemes)
        and (nightly or backends or schemes or not target.nightly)
    ]
    if not chosen:
        raise UsageError("the filters leave no target: nothing would be compared")
    return chosen
