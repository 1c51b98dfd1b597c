"""A target's outputs in its run's folder: what a later run compares with as baseline."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from harness.golden.compact import compact
from harness.golden.store import Golden, read_golden, write_golden

Array = np.ndarray[Any, np.dtype[Any]]

_FOLDER = "outputs"


def write_run_outputs(folder: Path, outputs: Mapping[str, Mapping[str, Array]]) -> None:
    """Seal a target's outputs, already in the golden's compact form."""
    write_golden(
        Golden(
            suite=_FOLDER,
            model_fingerprint="",
            cases_fingerprint="",
            outputs={
                case: {name: compact(array) for name, array in arrays.items()}
                for case, arrays in outputs.items()
            },
        ),
        folder / _FOLDER,
    )


def read_run_outputs(folder: Path) -> dict[str, dict[str, Array]]:
    """Outputs of a target of an earlier run: case -> output -> array.

    Raises:
        GoldenError: none were kept, or they are damaged.
    """
    golden = read_golden(folder / _FOLDER, suite=_FOLDER)
    return {
        case: {name: entry.array for name, entry in outputs.items()}
        for case, outputs in golden.outputs.items()
    }
