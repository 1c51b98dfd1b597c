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
from harness.golden.environment import differences, environment
from harness.golden.store import Golden, read_golden, write_golden

Array = np.ndarray[Any, np.dtype[Any]]

_FOLDER: Final = "outputs"
#: What decides which kernels run.
_HARDWARE: Final = (
    "machine",
    "cpu_flags",
    "driver",
    "backend_device",
    "variable.ONEDNN_MAX_CPU_ISA",
    "variable.ATEN_CPU_CAPABILITY",
    "variable.MKL_ENABLE_INSTRUCTIONS",
)
#: Whose kernels.
_RUNTIME: Final = ("backend", "backend_version")


def write_run_outputs(
    folder: Path,
    outputs: Mapping[str, Mapping[str, Array]],
    *,
    where: Mapping[str, Any] | None = None,
    model: str = "",
) -> None:
    """Seal a target's outputs, already in the golden's compact form.

    Args:
        folder: the target's folder in the run.
        outputs: case -> output -> array.
        where: the environment they were computed in; None: this one.
        model: fingerprint of the model that gave them.
    """
    golden = Golden(
        suite=_FOLDER,
        model_fingerprint=model,
        cases_fingerprint="",
        environment=environment() if where is None else where,
        outputs={
            case: {name: compact(array) for name, array in arrays.items()}
            for case, arrays in outputs.items()
        },
    )
    write_golden(golden, folder / _FOLDER)


def read_run_outputs(
    folder: Path,
    *,
    where: Mapping[str, Any] | None = None,
    model: str | None = None,
    across_versions: bool = False,
) -> dict[str, dict[str, Array]]:
    """Outputs of a target of an earlier run: case -> output -> array.

    Args:
        folder: the target's folder in the run.
        where: the environment they must come from; None: any.
        model: fingerprint of the model that must have given them; None: any.
        across_versions: another version of the backend is no hindrance.

    Raises:
        GoldenMissing: none were kept.
        GoldenCorrupt: they are damaged.
        GoldenMismatch: they come from another model, hardware class or version; says
            which.
    """
    golden = read_golden(folder / _FOLDER, suite=_FOLDER)
    if model is not None and golden.model_fingerprint != model:
        raise GoldenMismatch(
            f"{folder}: outputs of another model "
            f"({golden.model_fingerprint[:24] or 'kept without its fingerprint'}, "
            f"today's is {model[:24]}): run the baseline again on this one"
        )
    if where is not None:
        check_same_environment(
            golden.environment, where, str(folder), across_versions=across_versions
        )
    return {
        case: {name: entry.array for name, entry in outputs.items()}
        for case, outputs in golden.outputs.items()
    }


def target_environment(backend: str, version: str, device: str) -> dict[str, Any]:
    """This environment, and which backend of it computes a target."""
    return {
        **environment(),
        "backend": backend,
        "backend_version": version,
        "backend_device": device,
    }


def check_same_environment(
    recorded: Mapping[str, Any],
    today: Mapping[str, Any],
    what: str,
    *,
    across_versions: bool = False,
) -> None:
    """Whether quantized outputs of one may be compared with the other's.

    They are keyed by hardware class (processor's instruction sets as the kernels see
    them, device, driver) and by the version of the backend.

    Args:
        recorded: environment of the earlier outputs.
        today: of today's.
        what: whose they are, for the message.
        across_versions: another version of the backend is what is to be compared.

    Raises:
        GoldenMismatch: names what differs of what counts.
    """
    changed = differences(recorded, today)
    hardware = [name for name in _HARDWARE if name in changed]
    runtime = [name for name in _RUNTIME if name in changed and not across_versions]
    if not hardware and not runtime:
        return
    shown = [
        f"{name} {changed[name][0] or 'absent'} -> {changed[name][1] or 'absent'}"
        for name in (*hardware, *runtime)
    ]
    leave = "" if hardware else ", or --across-versions compares them all the same"
    raise GoldenMismatch(
        f"{what}: quantized outputs of another environment ({'; '.join(shown)}) are "
        f"not compared: run the baseline again on this one{leave}"
    )
