"""Replies side by side, as a run left them in its targets' folders."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness.judge.types import Judgement

#: Rows of a target that the page shows; the file has all.
SHOWN = 40


@dataclass(frozen=True, kw_only=True)
class ReplyRow:
    """One case: what was asked, what both wrote, where they part."""

    case: str
    prompt: str
    #: What both wrote, then what only the reference and only the target did.
    common: str
    reference: str
    target: str
    #: The probabilities that each gave to its own token there.
    probabilities: str
    broken: str
    differs: bool


def read_replies(folder: Path, target: Judgement) -> tuple[ReplyRow, ...]:
    """The rows of a target; none where it wrote nothing or the file is not there."""
    file = folder / "targets" / target.suite / target.backend / target.scheme
    try:
        rows = json.loads((file / "replies.json").read_text(encoding="utf-8"))
        return tuple(_row(row) for row in rows[:SHOWN])
    except (OSError, ValueError, KeyError, TypeError):
        return ()


def _row(row: dict[str, Any]) -> ReplyRow:
    common = int(row["common"])
    first, second = row["probability"]
    shown = " / ".join("-" if p is None else f"{p:.2f}" for p in (first, second))
    return ReplyRow(
        case=str(row["case"]),
        prompt=str(row["prompt"]),
        common=str(row["reference"])[:common],
        reference=str(row["reference"])[common:],
        target=str(row["target"])[common:],
        probabilities=shown if row["step"] is not None else "",
        broken=", ".join(row["broken"]),
        differs=row["step"] is not None,
    )
