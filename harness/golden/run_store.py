"""A target's outputs in its run's folder: what a later run compares with as baseline.

Outputs of a quantized model belong to the machine and the versions they were computed
with, so they carry their environment; asked for another one they are `stale`.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import numpy as np

from harness.errors import GoldenMismatch
from harness.golden.compact import compact
from harness.golden.environment import differences, environment, environment_key
from harness.golden.store import Golden, read_golden, write_golden

Array = np.ndarray[Any, np.dtype[Any]]

_FOLDER: Final = "outputs"


def write_run_outputs(
    folder: Path,
    outputs: Mapping[str, Mapping[str, Array]],
    *,
    where: Mapping[str, Any] | None = None,
) -> None:
    """Seal a target's outputs, already in the golden's compact form.

    Args:
        folder: the target's folder in the run.
        outputs: case -> output -> array.
        where: the environment they were computed in; None: this one.
    """
    golden = Golden(
        suite=_FOLDER,
        model_fingerprint="",
        cases_fingerprint="",
        environment=environment() if where is None else where,
        outputs={
            case: {name: compact(array) for name, array in arrays.items()}
            for case, arrays in outputs.items()
        },
    )
    write_golden(golden, folder / _FOLDER)


def read_run_outputs(
    folder: Path, *, where: Mapping[str, Any] | None = None
) -> dict[str, dict[str, Array]]:
    """Outputs of a target of an earlier run: case -> output -> array.

    Args:
        folder: the target's folder in the run.
        where: the environment they must come from; None: any.

    Raises:
        GoldenMissing: none were kept.
        GoldenCorrupt: they are damaged.
        GoldenMismatch: they come from another hardware class or other versions;
            says which.
    """
    golden = read_golden(folder / _FOLDER, suite=_FOLDER)
    if where is not None:
        check_same_environment(golden.environment, where, str(folder))
    return {
        case: {name: entry.array for name, entry in outputs.items()}
        for case, outputs in golden.outputs.items()
    }


def check_same_environment(
    recorded: Mapping[str, Any], today: Mapping[str, Any], what: str
) -> None:
    """Whether quantized outputs of one may be compared bit by bit with the other's.

    Raises:
        GoldenMismatch: names what differs of what counts.
    """
    if environment_key(recorded) == environment_key(today):
        return
    counted = environment_key(recorded).split("|") + environment_key(today).split("|")
    names = {entry.partition("=")[0] for entry in counted}
    shown = [
        f"{name} {before or 'absent'} -> {now or 'absent'}"
        for name, (before, now) in differences(recorded, today).items()
        if name in names
    ]
    raise GoldenMismatch(
        f"{what}: quantized outputs of another environment ({'; '.join(shown)}); "
        "they are not compared: run the baseline again on this one"
    )
