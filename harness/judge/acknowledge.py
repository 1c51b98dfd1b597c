"""Known failures that a person accepts for a while, with a reason."""

from __future__ import annotations

import dataclasses
import fnmatch

from harness.judge.evidence import Acknowledgement, Evidence
from harness.judge.types import CheckResult, Verdict


def acknowledge(
    evidence: Evidence, results: tuple[CheckResult, ...]
) -> tuple[CheckResult, ...]:
    """The decisions with every acknowledged failure turned into `changed`.

    It is shown and no longer fails. Expired entries never get here: the ledger does
    not load with one.
    """
    name = f"{evidence.suite}/{evidence.backend}/{evidence.scheme}"
    mine = [
        entry
        for entry in evidence.acknowledgements
        if fnmatch.fnmatchcase(name, entry.target)
    ]
    return tuple(_one(entry, mine) for entry in results)


def _one(found: CheckResult, known: list[Acknowledgement]) -> CheckResult:
    if not found.verdict.fails:
        return found
    for entry in known:
        if entry.check == found.check and entry.metric in ("", found.measurement):
            reason = (
                f"acknowledged until {entry.expires} by {entry.author} "
                f"({entry.reason}; {entry.source}): {found.reason}"
            )
            return dataclasses.replace(found, verdict=Verdict.CHANGED, reason=reason)
    return found
