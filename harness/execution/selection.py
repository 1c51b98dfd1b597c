"""Which targets of some suites are run."""

from __future__ import annotations

import difflib
from collections.abc import Sequence

from harness.backends.registry import Registry
from harness.errors import UsageError
from harness.execution.suite import Suite, Target
from harness.schemes.catalogue import SCHEMES


def select(
    suites: Sequence[Suite],
    backends: Sequence[str] | None,
    schemes: Sequence[str] | None,
    *,
    nightly: bool = False,
    everything: Registry | None = None,
) -> list[tuple[Suite, Target]]:
    """The targets that the filters leave; those of the nightly only if asked for.

    Args:
        suites: whose targets.
        backends: only of these; None: of all.
        schemes: only of these; None: of all.
        nightly: whether those of the nightly are among them.
        everything: not only the targets of the suites, but every scheme on every
            backend of this registry that can be used here.

    Raises:
        UsageError: a filter names something no suite has, or leaves nothing.
    """
    pairs = [(suite, target) for suite in suites for target in suite.targets]
    if everything is not None:
        pairs = _every(suites, everything, backends or ())
        nightly = True
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


def _every(
    suites: Sequence[Suite], registry: Registry, named: Sequence[str]
) -> list[tuple[Suite, Target]]:
    """Every scheme on every backend that can be used here, suite by suite.

    A suite's own targets are as it says; of a backend's variants those that are named
    or that a suite has.
    """
    own = {target.backend for suite in suites for target in suite.targets}
    names = dict.fromkeys((*registry.backend_names, *sorted(own), *named))
    usable = [name for name in names if _usable(registry, name)]
    if not usable:
        raise UsageError("no backend can be used here; `quantharness doctor` says why")
    pairs = []
    for suite in suites:
        have = {target.name: target for target in suite.targets}
        schemes = {target.scheme.name: target.scheme for target in suite.targets}
        schemes = {**SCHEMES, **registry.schemes, **schemes}
        for backend in usable:
            for scheme in schemes.values():
                made = Target(backend=backend, scheme=scheme)
                pairs.append((suite, have.get(made.name, made)))
    return pairs


def _usable(registry: Registry, name: str) -> bool:
    try:
        return bool(registry.backend(name).probe().available)
    except UsageError:
        # Its plugin does not load: `doctor` shows why, and no other is held up.
        return False
