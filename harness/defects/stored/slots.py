"""Planting in a file: its weights as slots that are read and written in place."""

from __future__ import annotations

import fnmatch
import shutil
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from harness.defects.stored.types import (
    PARTS,
    Neighbours,
    Planted,
    StoredWeight,
    changed,
)
from harness.defects.types import Defect, Planting, Unfit
from harness.errors import UnsupportedError, UsageError

Array = np.ndarray[Any, np.dtype[Any]]
#: Bytes that are compared at a time.
_CHUNK = 1 << 22


@dataclass(frozen=True, kw_only=True)
class Slot:
    """One weight of a file."""

    name: str
    #: A copy of its bytes, by part.
    read: Callable[[], StoredWeight]
    #: Puts all parts back where they came from.
    write: Callable[[StoredWeight], None]
    #: Rows of an attention head, if it makes queries or keys.
    head: int = 0


def plant_slots(
    slots: Sequence[Slot],
    defect: Defect,
    planting: Planting,
    *,
    among: Collection[str] | None = None,
) -> tuple[str, ...]:
    """Change every weight that is named and that the defect fits; in place.

    Args:
        slots: the file's weights, in its order.
        defect: one of stored bytes.
        planting: `operator` is a name or an fnmatch pattern; None: every weight.
        among: no other weights than these; None: any.

    Returns:
        names of the weights that were changed.

    Raises:
        UnsupportedError: it fits none of them; says why not the last.
        UsageError: no weight has that name, or the defect is not one of stored bytes.
    """
    if defect.place != "stored":
        raise UsageError(
            f"{defect.name} changes the {defect.place}, but should be a defect of "
            "stored bytes; their names begin with stored_"
        )
    wanted = planting.operator or "*"
    known = [i for i, s in enumerate(slots) if among is None or s.name in among]
    chosen = [i for i in known if fnmatch.fnmatch(slots[i].name, wanted)]
    if not chosen:
        raise UsageError(
            f"no quantized weight is called {wanted!r}; there are "
            f"{', '.join(slots[i].name for i in known[:5]) or 'none'}"
        )
    given = planting.strength
    strength = defect.parameter.catalogue if given is None else given
    done: list[tuple[Slot, StoredWeight]] = []
    reason = ""
    for index in chosen:
        slot = slots[index]
        weight = slot.read()
        near = Neighbours(
            other=_other(slots, index, weight), head=slot.head, seed=planting.seed
        )
        try:
            done.append((slot, changed(defect, weight, near, strength)))
        except Unfit as error:
            reason = f"{slot.name}: {error}"
    if not done:
        raise UnsupportedError(f"{defect.name} fits no weight of the file: {reason}")
    # Written last: a neighbour is what the file held before anything was planted.
    for slot, weight in done:
        slot.write(weight)
    return tuple(slot.name for slot, _ in done)


def _other(slots: Sequence[Slot], index: int, weight: StoredWeight) -> Any:
    """The next weight of the same layout, the first after the last."""
    for slot in [*slots[index + 1 :], *slots[:index]]:
        other = slot.read()
        if _layout(other) == _layout(weight):
            return other
    return None


def _layout(weight: StoredWeight) -> Any:
    parts = [getattr(weight, name) for name in PARTS]
    return weight.bits, [None if p is None else (p.shape, p.dtype.name) for p in parts]


def plant_file(
    source: Path,
    out: Path,
    plant: Callable[[Path], tuple[str, ...]],
) -> Planted:
    """A copy of the file with something planted; the source is never written to.

    Raises:
        UsageError: the copy would be the source.
    """
    if out.resolve() == source.resolve():
        raise UsageError(f"{out}: the planted copy should be another file")
    out.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(source, out)
    try:
        names = plant(out)
    except BaseException:
        out.unlink(missing_ok=True)
        raise
    return Planted(names=names, bytes_changed=_different(source, out))


def _different(first: Path, second: Path) -> int:
    """Bytes that are not the same, of two files of one length."""
    count = 0
    with first.open("rb") as a, second.open("rb") as b:
        while left := a.read(_CHUNK):
            right = b.read(len(left))
            pair = (np.frombuffer(part, np.uint8) for part in (left, right))
            count += int(np.count_nonzero(np.not_equal(*pair)))
    return count
