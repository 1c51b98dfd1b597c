r"""Results rounded to integers with a static scale, as NPUs hand them on.

A result y becomes s * clip(round(y / s)), ties to even, with s = amax / largest code,
amax calibrated over the golden's cases: `QuantizeLinear` and `DequantizeLinear` of ONNX
with a zero point of 0.

**What a faithful backend may differ by.** Its result before rounding is off by last
bits, and a result that close to the middle of two codes gets either: a whole step apart
from the oracle's. So an observed code is not compared with the oracle's code. It stands
for an interval, all results that round to it, and its residual is how far outside of it
the oracle's unrounded result lies: never more than the error before rounding, whatever
the code became. The interval's ends are as wide as the division by the scale leaves
them open. What is on no code at all was not rounded, and is compared as it is.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from harness.errors import UnsupportedError
from harness.models.types import Operator
from harness.schemes.types import Scheme

Array = np.ndarray[Any, np.dtype[Any]]

#: Format -> its largest code; the smallest is one further from zero.
OUTPUT_FORMATS: Final[Mapping[str, int]] = {"int8": 127, "int16": 32767}
#: Roundings of float32 between a result and its quotient by the scale, in a backend
#: that multiplies by a reciprocal, or by a product of scales: four, as for inputs.
_EDGE: Final = 4 * 2.0**-24
#: Roundings of float32 of a decoded code: the product, and the scale's own.
_DECODED: Final = 2 * 2.0**-24


@dataclass(frozen=True)
class Grid:
    """The values that a rounded result can have.

    Attributes:
        scale: a float32 value, > 0.
        top: the largest code.
    """

    scale: float
    top: int

    def codes(self, y: Array) -> Array:
        """float64 codes of the nearest values, ties to even, saturating; NaN stays."""
        found: Array = np.clip(np.rint(y / self.scale), -self.top - 1, self.top)
        return found

    def round(self, y: Array) -> Array:
        """float64 values that results become."""
        found: Array = self.codes(np.asarray(y, np.float64)) * self.scale
        return found

    def residual(self, y: Array, low: Array, high: Array, unit: float = 0.0) -> Array:
        """How far observed results are from what rounds to them; 0: not at all.

        Args:
            y: observed, float64.
            low: the smallest that a faithful backend may have rounded, same shape.
            high: the largest.
            unit: relative error of how results are stored.
        """
        codes = self.codes(y)
        values = codes * self.scale
        below = np.where(codes == -self.top - 1, -np.inf, (codes - 0.5) * self.scale)
        above = np.where(codes == self.top, np.inf, (codes + 0.5) * self.scale)
        with np.errstate(invalid="ignore"):
            below = below - _EDGE * np.abs(below)
            above = above + _EDGE * np.abs(above)
            outside = np.maximum(below - high, 0) + np.minimum(above - low, 0)
            rounded = np.abs(y - values) <= (_DECODED + unit) * np.abs(values)
        found: Array = np.where(rounded, outside, y - self.round((low + high) / 2))
        return found


@dataclass(frozen=True, eq=False)
class Rounding:
    """How an operator's result was rounded.

    Attributes:
        grid: what it is rounded to.
        before: float64, the oracle's result before.
        unit: unit roundoff of how a backend stores it.
    """

    grid: Grid
    before: Array
    unit: float


def output_grid(operator: Operator, scheme: Scheme) -> Grid:
    """What the operator's results are rounded to.

    Raises:
        UnsupportedError: the scheme is not calibrated for this operator.
    """
    assert scheme.outputs is not None  # sanity check
    if operator.name not in scheme.output_calibration:
        raise UnsupportedError(
            f"{scheme.name} needs the largest result of {operator.name}: record the "
            "suite's golden again, it holds what static schemes are calibrated with "
            "(a golden of an older version holds inputs alone)",
            operator=operator.name,
        )
    top = OUTPUT_FORMATS[scheme.outputs.format]
    amax = np.float32(scheme.output_calibration[operator.name])
    scale = np.float32(amax / np.float32(top))
    return Grid(float(scale) if scale > 0 else 1.0, top)
