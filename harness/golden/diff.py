"""What a renewal would change, said before anything is written."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from harness.golden.store import Golden


@dataclass(frozen=True)
class Change:
    """One difference between two goldens."""

    what: str
    detail: str

    def __str__(self) -> str:
        return f"{self.what}: {self.detail}"


def diff(old: Golden, new: Golden) -> list[Change]:
    """What changes from one golden to another; dates and reasons do not count."""
    changes = []
    for name in ("model_fingerprint", "cases_fingerprint"):
        before, after = getattr(old, name), getattr(new, name)
        if before != after:
            changes.append(Change(name, f"{before[:24]} -> {after[:24]}"))
    gone, added = (
        sorted(set(old.outputs) - set(new.outputs)),
        sorted(set(new.outputs) - set(old.outputs)),
    )
    if gone:
        changes.append(Change("cases gone", _some(gone)))
    if added:
        changes.append(Change("cases added", _some(added)))
    changes += _outputs(old, new)
    changes += _answers(old, new)
    return changes


def _some(names: list[str]) -> str:
    shown = ", ".join(names[:5])
    return shown if len(names) <= 5 else f"{shown} and {len(names) - 5} more"


def _outputs(old: Golden, new: Golden) -> list[Change]:
    """Outputs that moved, by output: how many cases, how far, which one most."""
    moved: dict[str, list[tuple[float, str]]] = {}
    for case in old.outputs:
        for output, before in old.outputs[case].items():
            after = new.outputs.get(case, {}).get(output)
            if after is None or after.array.tobytes() == before.array.tobytes():
                continue
            if after.array.shape != before.array.shape:
                moved.setdefault(output, []).append((float("inf"), case))
                continue
            a = before.array.astype(np.float64)
            b = after.array.astype(np.float64)
            norm = float(np.linalg.norm(a)) or 1.0
            moved.setdefault(output, []).append(
                (float(np.linalg.norm(b - a)) / norm, case)
            )
    changes = []
    for output, found in moved.items():
        far, case = max(found)
        detail = (
            f"{len(found)} of {len(old.outputs)} cases moved, most {far:.3g} ({case})"
        )
        changes.append(Change(output, detail))
    return changes


def _answers(old: Golden, new: Golden) -> list[Change]:
    """Answers at the end of the pipeline that are others now."""
    changes = []
    for behaviour, before in old.behaviours.items():
        after = new.behaviours.get(behaviour, {})
        for case, answer in before.items():
            other = after.get(case)
            if other is not None and other["answer"] != answer["answer"]:
                detail = f"{case}: {answer['answer']!r} -> {other['answer']!r}"
                changes.append(Change(behaviour, detail))
    return changes
