"""The result of `quantize`: codes with their scales."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from harness.numerics import engine
from harness.numerics.arrays import Array, as_numpy, integer_codes
from harness.numerics.formats import Format, element_format, find_format
from harness.numerics.grid import Axis, Block, Grid, make_grid
from harness.numerics.packing import pack


@dataclass(frozen=True, eq=False)
class Quantized:
    """Codes with their scales; arrays or tensors, on the device of what was quantized.

    Attributes:
        codes: uint8 (uint16 for 16-bit formats), one an entry, in the tensor's shape.
        scales: float32 (as the scale format decodes), of the tensor's rank: each axis
            as long as there are groups along it.
        global_scale: NVFP4's float32 scale of the whole tensor, else 1.
        zero_points: int32 of the scales' shape, or None.
        format: name of the format.
        axis: direction along which values share a scale, counted from the front.
        block: elements that share a scale along the axis; 0: the whole axis.
        shape: shape of the tensor.
        rule: the scale rule that was used.
    """

    codes: Any
    scales: Any
    global_scale: float
    format: str
    axis: int | tuple[int, ...]
    block: Block
    shape: tuple[int, ...]
    rule: str
    zero_points: Any = None

    @property
    def element(self) -> str:
        """The element format's name."""
        fmt = find_format(self.format)
        return fmt.element if fmt.kind == "block" else fmt.name

    @property
    def grid(self) -> Grid:
        """How the groups lie."""
        axis: Axis = self.axis
        return make_grid(self.shape, axis, self.block)

    @property
    def scale_codes(self) -> Any:
        """Scales as stored: uint8 codes for E8M0 and E4M3 scales, else float32."""
        from harness.numerics.codec import encode

        fmt = find_format(self.format)
        return encode(self.scales, fmt.scale) if fmt.scale else self.scales

    def expanded_scales(self) -> Array:
        """float32 scale of every element, the global scale included."""
        scales, _ = as_numpy(self.scales)
        product = (scales * np.float32(self.global_scale)).astype(np.float32)
        return self.grid.expand(product)

    def dequantize(self) -> Any:
        """float32 values in the tensor's shape, on the tensor's device.

        A value is the element times (block scale times global scale), both products
        rounded to float32.
        """
        codes, back = as_numpy(self.codes)
        grid, element = self.grid, self._element()
        if not codes.size:
            return back(np.zeros(self.shape, np.float32))
        scales = grid.scales_to_view(as_numpy(self.scales)[0])
        points = None
        if self.zero_points is not None:
            points = grid.scales_to_view(as_numpy(self.zero_points)[0])
        checked = grid.to_view(integer_codes(codes, element.bits))
        values = engine.decode_scaled(
            checked,
            grid,
            scales,
            tensor=self.global_scale,
            points=points,
            element=element,
        )
        return back(grid.from_view(values))

    def pack(self) -> bytes:
        """Codes as hardware stores them: C order, each row's tail filled with zeros.

        Two 4-bit codes a byte, low nibble first; four 6-bit codes in three bytes, low
        bits first; 8-bit codes as they are; 16-bit codes little-endian.
        """
        codes, _ = as_numpy(self.codes)
        packed: Array = pack(codes, self.element)
        return packed.tobytes()

    def _element(self) -> Format:
        return element_format(self.element)
