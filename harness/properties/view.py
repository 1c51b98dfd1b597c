"""What a quantizer returned, its shapes checked, with every element's scale."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from harness.numerics.arrays import as_numpy, integer_codes
from harness.numerics.codec import decode_array
from harness.numerics.formats import Format
from harness.properties.quantizer import Array, Quantizer


@dataclass(frozen=True, eq=False)
class View:
    """A quantizer's answer to one tensor.

    Attributes:
        x: float32 (rows, n) that was quantized.
        codes: uint8 (rows, n).
        scales: float32 (rows, groups), the tensor's scale not included.
        total: float32 (rows, n), every element's scale, the tensor's included.
        values: float32 (rows, n), as the quantizer decodes.
        element: format of the codes.
        size: elements of a group.
        raw: what the quantizer returned.
    """

    x: Array
    codes: Array
    scales: Array
    total: Array
    values: Array
    element: Format
    size: int
    raw: Any

    @property
    def decoded(self) -> Array:
        """float64 element values of the codes, without the scale."""
        points = getattr(self.raw, "zero_points", None)
        values: Array = decode_array(self.codes, self.element).astype(np.float64)
        if points is not None:
            wide = np.repeat(as_numpy(points)[0], self.size, axis=1)
            values -= wide[:, : self.x.shape[1]]
        return values

    @property
    def groups(self) -> list[slice]:
        """Columns of each group of a row."""
        n = self.x.shape[1]
        return [slice(i, min(i + self.size, n)) for i in range(0, n, self.size)]


def view(quantizer: Quantizer, x: Array) -> View:
    """Quantize and check that what came back has the right shapes.

    Raises:
        AssertionError: codes, scales or values are of the wrong shape, or codes do not
            fit the format.
    """
    raw = quantizer.quantize(x.copy())
    codes = integer_codes(as_numpy(raw.codes)[0], quantizer.element.bits)
    scales = np.asarray(as_numpy(raw.scales)[0], np.float32)
    values = np.asarray(as_numpy(raw.dequantize())[0], np.float32)
    size = quantizer.size or max(x.shape[1], 1)
    wanted = (x.shape[0], -(-x.shape[1] // size))
    name = quantizer.name
    assert codes.shape == x.shape, f"{name}: codes.shape={codes.shape}, x is {x.shape}"
    assert values.shape == x.shape, (
        f"{name}: values.shape={values.shape}, not {x.shape}"
    )
    assert scales.shape == wanted, (
        f"{name}: scales.shape={scales.shape}, but {x.shape} in groups of {size} has "
        f"{wanted}"
    )
    tensor = np.float32(getattr(raw, "global_scale", 1.0))
    with np.errstate(all="ignore"):
        product = (scales * tensor).astype(np.float32)
    total = np.repeat(product, size, axis=1)[:, : x.shape[1]]
    return View(x, codes, scales, total, values, quantizer.element, size, raw)
