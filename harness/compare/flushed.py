"""Are elements below the smallest normal number missing in an operator's output?

Engines flush subnormal numbers to zero: fast conversions do, and processors are told
to. In FP8 these are few and small elements, so the energy of what is missing hides
below the roundings; but what would be missing is known exactly, element by element. The
share of it that the residual holds is found by least squares: 0 of a faithful backend,
1 of one that flushes.
"""

from __future__ import annotations

import math
from typing import Any, Final

import numpy as np

from harness.compare.operator_evidence import Flushed
from harness.models.types import Operator
from harness.schemes.ambiguity import as_rows
from harness.schemes.linear_algebra import product
from harness.schemes.oracle import OracleOutput

Array = np.ndarray[Any, np.dtype[Any]]

#: Output vectors that a call is judged by, or those of one entry of a batch: the share
#: is the same in all of them, and a few hundred in all determine it well.
_ROWS: Final = 128

#: Sums that cut off what does not fit: there small products are lost by design.
TRUNCATING: Final = frozenset({"fp8_tensor_core"})

_Missing = tuple[Array, dict[str, Array]]


class FlushedSums:
    """Running sums over output vectors, of weights or of inputs."""

    def __init__(self) -> None:
        #: Of an output vector: r, the residual along what would be missing, and m, the
        #: energy of that. Sums of r, m, r^2, r m and m^2.
        self._sums = np.zeros(5)
        self._elements = 0
        self._residual = 0.0

    def add(self, residual: Array, missing: Array) -> None:
        """Take in output vectors (rows, channels).

        Args:
            residual: float64, observed minus oracle, without what codes on the edge
                explain.
            missing: float64, the flushed operator's output minus the exact one.
        """
        self._elements += missing.size
        self._residual += float(np.square(residual).sum())
        r = (residual * missing).sum(axis=1)
        m = np.square(missing).sum(axis=1)
        self._sums += [r.sum(), m.sum(), (r * r).sum(), (r * m).sum(), (m * m).sum()]

    def result(self, what: str, noise_sq: float) -> Flushed | None:
        """The share that is missing; None where nothing would be.

        Output vectors are independent; elements of one, which share their inputs, may
        depend on each other. What noise theory expects of an element comes on top.

        Args:
            what: "weights" or "inputs".
            noise_sq: expected square of an element's roundings.
        """
        r, m, rr, rm, mm = self._sums
        if not m > 0:
            return None
        share = r / m
        spread = max(0.0, rr - 2 * share * rm + share * share * mm)
        return Flushed(
            what=what,
            share=float(share),
            error=float(np.sqrt(spread / m**2 + noise_sq / m)),
            vectors=float(m * m / mm),
            accounted=float(share * r / self._residual) if self._residual else 0.0,
            prominence=float(m / (noise_sq * self._elements)) if noise_sq else math.inf,
        )


def flushed_outputs(found: OracleOutput, subnormal_weight: Array | None) -> _Missing:
    """What flushing would add to the output, by "weights" and "inputs", in rows.

    Args:
        found: the oracle's output.
        subnormal_weight: of the output channels that it has; None: there is none.

    Returns:
        The rows that were computed, and the float64 (rows, channels) of each kind that
        has any subnormal number.
    """
    operator, inputs, small = found.operator, found.inputs, found.subnormal_inputs
    # Output vectors of one entry of the batch: of a linear layer every row is one.
    each = 1
    if operator.kind == "linear":
        inputs = inputs.reshape(-1, inputs.shape[-1])
    else:
        each = operator.groups * math.prod(found.exact.shape[2:])
    count = min(len(inputs), math.ceil(_ROWS / max(1, each)))
    chosen = np.linspace(0, len(inputs) - 1, count).astype(np.int64)
    rows = (chosen[:, None] * each + np.arange(each)).ravel()
    missing = {}
    if subnormal_weight is not None:
        missing["weights"] = _product(operator, inputs[chosen], subnormal_weight)
    if small is not None:
        part = small.reshape(inputs.shape)[chosen]
        missing["inputs"] = _product(operator, part, found.weight)
    return rows, missing


def _product(operator: Operator, x: Array, weight: Array) -> Array:
    found = product(operator, x.astype(np.float32), weight.astype(np.float32))
    rows: Array = -as_rows(operator, found).astype(np.float64)
    return rows
