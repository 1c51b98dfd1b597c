"""Where in the weight an operator's error seems to come from: channel by block."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from harness.diagnose.estimates import unfold
from harness.diagnose.observation import Observation
from harness.schemes.ambiguity import as_rows

Array = np.ndarray[Any, np.dtype[Any]]

#: Most rows and columns of a picture.
_MOST: Final = 48


@dataclass(frozen=True, kw_only=True)
class HeatMap:
    """Error by output channel and by block of inputs."""

    #: First output channel of each row; first input of each column.
    channels: tuple[int, ...]
    inputs: tuple[int, ...]
    #: Rows of cells: the weight error that would explain what was seen, relative to
    #: the root mean square of the weight; >= 0, 0 where nothing is wrong.
    cells: tuple[tuple[float, ...], ...]

    def as_dict(self) -> dict[str, Any]:
        """JSON."""
        return {
            "channels": list(self.channels),
            "inputs": list(self.inputs),
            "cells": [list(row) for row in self.cells],
        }


def heat_map(seen: Observation) -> HeatMap | None:
    """How the residual goes with each input: wrong blocks of the weight stand out.

    Every element of the weight gets the correction that its input alone would need
    (residual^T x / x^T x): exact where inputs are uncorrelated, a picture where not.

    Args:
        seen: calls of the operator.

    Returns:
        at most 48 x 48 cells; None where residuals or inputs are not finite, and for
        grouped convolutions.
    """
    if seen.operator.groups != 1:
        return None
    residuals, inputs = [], []
    for x, call, exact in zip(seen.entries, seen.calls, seen.exact, strict=True):
        rows = as_rows(seen.operator, call.y - exact)
        residuals.append(rows)
        inputs.append(unfold(seen.operator, x, call.y.shape).astype(np.float64))
    r, x = np.concatenate(residuals), np.concatenate(inputs)
    if not (np.isfinite(r).all() and np.isfinite(x).all()):
        return None
    energy = np.square(x).sum(axis=0)
    needed = (r.T @ x) / np.where(energy > 0, energy, 1.0)
    size = float(np.sqrt(np.square(seen.weight.astype(np.float64)).mean())) or 1.0
    block = _block(seen)
    tall = -(-needed.shape[0] // _MOST)
    wide = block * -(-needed.shape[1] // (block * _MOST))
    starts = np.arange(0, needed.shape[0], tall), np.arange(0, needed.shape[1], wide)
    summed = np.add.reduceat(np.square(needed), starts[0], axis=0)
    summed = np.add.reduceat(summed, starts[1], axis=1)
    counts = np.outer(
        np.diff([*starts[0], needed.shape[0]]), np.diff([*starts[1], needed.shape[1]])
    )
    cells = np.sqrt(summed / counts) / size
    return HeatMap(
        channels=tuple(starts[0].tolist()),
        inputs=tuple(starts[1].tolist()),
        cells=tuple(tuple(float(f"{v:.3g}") for v in row) for row in cells),
    )


def _block(seen: Observation) -> int:
    """Inputs that share a scale, so that a column is whole blocks."""
    stored = seen.stored
    if stored is None or not isinstance(stored.block, int) or stored.block < 1:
        return 1
    return stored.block
