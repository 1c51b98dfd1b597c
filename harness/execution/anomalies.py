"""What is wrong with an output by itself, whatever its distance."""

from __future__ import annotations

from typing import Any

import numpy as np

from harness.execution.context import Context
from harness.execution.jobs import Outputs
from harness.judge.evidence import Anomaly

Array = np.ndarray[Any, np.dtype[Any]]


def find_anomalies(context: Context, outputs: Outputs) -> list[Anomaly]:
    """What is wrong with an output by itself, whatever its distance."""
    found = []
    for case, expected in context.golden.outputs.items():
        arrays = outputs.get(case)
        if arrays is None:
            found.append(
                Anomaly(case=case, output="*", kind="missing", detail="not run")
            )
            continue
        found.extend(
            Anomaly(case=case, output=name, kind="extra", detail="not in the golden")
            for name in sorted(set(arrays) - set(expected))
        )
        for name, entry in expected.items():
            kind, detail = _anomaly(
                entry.shape, context.reference[case][name], arrays.get(name)
            )
            if kind:
                found.append(Anomaly(case=case, output=name, kind=kind, detail=detail))
    return found


def _anomaly(
    shape: tuple[int, ...], reference: Array, array: Array | None
) -> tuple[str, str]:
    """Kind and detail; two empty strings when nothing is wrong."""
    if array is None:
        return "missing", "the target does not give this output"
    if tuple(array.shape) != tuple(shape):
        return "shape", f"shape={tuple(array.shape)}, but should be {tuple(shape)}"
    if array.dtype.kind not in "fiub":
        return "dtype", f"dtype={array.dtype}, but should be a real number"
    values = np.asarray(array, dtype=np.float64)
    if np.isfinite(reference.astype(np.float64)).all():
        nan, inf = int(np.isnan(values).sum()), int(np.isinf(values).sum())
        if nan:
            return "nan", f"{nan} of {values.size} values, none in the reference"
        if inf:
            return "inf", f"{inf} of {values.size} values, none in the reference"
    if values.size > 1 and np.ptp(reference.astype(np.float64)) > 0:
        if not values.any():
            return "zero", f"all {values.size} values are zero"
        if np.ptp(values) == 0:
            return "constant", f"all {values.size} values are {values.flat[0]:g}"
    return "", ""
