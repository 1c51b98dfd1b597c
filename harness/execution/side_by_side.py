"""The reference's replies beside a target's, for the report."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from harness.behaviours.types import Replies, Reply
from harness.files import write_json
from harness.judge.evidence import BehaviourEvidence

#: In a target's folder.
FILE: Final = "replies.json"


def write_replies(
    folder: Path,
    reference: Replies,
    target: Replies,
    behaviours: Sequence[BehaviourEvidence],
) -> None:
    """Write what both wrote in every case that both replied to; nothing without.

    Cases in which a behaviour broke come first, then those that differ, then the rest.
    """
    broken = _broken(behaviours)
    rows = [
        _row(case, reference[case], written, broken.get(case, []))
        for case, written in target.items()
        if case in reference
    ]
    if rows:
        rows.sort(key=lambda row: (not row["broken"], row["step"] is None, row["case"]))
        write_json(folder / FILE, rows)


def _broken(behaviours: Sequence[BehaviourEvidence]) -> Mapping[str, list[str]]:
    """Case -> behaviours whose right answer was lost in it.

    Not those that are only shown: no loss breaks a margin of 1.
    """
    found: dict[str, list[str]] = {}
    for entry in behaviours:
        if entry.margin is not None and entry.margin >= 1:
            continue
        pairs = zip(entry.cases, entry.reference_right, entry.target_right, strict=True)
        for case, before, now in pairs:
            if before and not now:
                found.setdefault(case, []).append(entry.name)
    return found


def _row(
    case: str, reference: Reply, target: Reply, broken: list[str]
) -> dict[str, Any]:
    step = first_divergence(reference.tokens.tolist(), target.tokens.tolist())
    return {
        "case": case,
        "prompt": target.prompt,
        "reference": reference.text,
        "target": target.text,
        #: Token from which on they differ; None: nowhere.
        "step": step,
        "common": _common(reference.text, target.text),
        "probability": [_at(reference, step), _at(target, step)],
        "broken": broken,
    }


def first_divergence(first: Sequence[int], second: Sequence[int]) -> int | None:
    """Index of the first token that differs, or that only one has; None: equal."""
    for index, (left, right) in enumerate(zip(first, second, strict=False)):
        if left != right:
            return index
    return None if len(first) == len(second) else min(len(first), len(second))


def _common(first: str, second: str) -> int:
    """Characters that both texts start with."""
    count = 0
    for left, right in zip(first, second, strict=False):
        if left != right:
            break
        count += 1
    return count


def _at(reply: Reply, step: int | None) -> float | None:
    if step is None or step >= len(reply.probabilities):
        return None
    return round(float(reply.probabilities[step]), 4)
