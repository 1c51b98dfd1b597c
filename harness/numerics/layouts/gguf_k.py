"""GGUF's super-blocks: Q4_K, scales and minimums of six bits under two of float16.

144 bytes hold 256 elements: `d` and `dmin`, float16; twelve bytes of eight six-bit
scales and eight six-bit minimums; 128 bytes of codes, the low nibbles of 32 of them one
group of 32 elements, the high nibbles the next.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from harness.errors import NumericsError
from harness.numerics.arrays import Array
from harness.numerics.quantized import Quantized

#: Elements of a super-block and of a group in it.
SUPER, GROUP = 256, 32


@dataclass(frozen=True, eq=False, kw_only=True)
class Q4K(Quantized):
    """Super-blocks of 256: value = scale * code - offset.

    `codes` are uint8 0 to 15 in the tensor's shape; `scales` float32, d * step, one for
    32 elements, and what `dequantize` multiplies with.

    Attributes:
        steps: uint8 0 to 63, of the scales' shape: scale = d * step.
        minimums: uint8 0 to 63, of the scales' shape: offset = dmin * minimum.
        d: float16, one a super-block.
        dmin: float16, one a super-block.
    """

    steps: Array
    minimums: Array
    d: Array
    dmin: Array

    @property
    def offsets(self) -> Array:
        """float32 of the scales' shape, what is subtracted."""
        return _times(self.dmin, self.minimums)

    def dequantize(self) -> Array:
        """float32 values, each product and the difference rounded to float32."""
        groups = (*self.scales.shape, GROUP)
        codes = self.codes.astype(np.float32).reshape(groups)
        with np.errstate(invalid="ignore", over="ignore"):
            values: Array = self.scales[..., None] * codes - self.offsets[..., None]
        return values.reshape(self.shape)


def make_q4k(codes: Array, steps: Array, minimums: Array, d: Array, dmin: Array) -> Q4K:
    """From what is stored, in the shapes and types of `Q4K`'s attributes."""
    return Q4K(
        codes=codes,
        scales=_times(d, steps),
        global_scale=1.0,
        format="uint4",
        axis=codes.ndim - 1,
        block=GROUP,
        shape=codes.shape,
        rule="gguf Q4_K",
        steps=steps,
        minimums=minimums,
        d=d,
        dmin=dmin,
    )


def _times(unit: Array, steps: Array) -> Array:
    groups = steps.reshape(*unit.shape, -1).astype(np.float32)
    with np.errstate(invalid="ignore", over="ignore"):
        found: Array = unit.astype(np.float32)[..., None] * groups
    return found.reshape(steps.shape)


def read_q4k(blocks: Array) -> Q4K:
    """Super-blocks as they are stored.

    Args:
        blocks: uint8 (..., super-blocks of a row, 144).
    """
    shape = blocks.shape[:-2]
    d, dmin = (
        np.ascontiguousarray(blocks[..., i : i + 2]).view("<f2")[..., 0] for i in (0, 2)
    )
    low, high, mixed = (blocks[..., 4 + 4 * i : 8 + 4 * i] for i in range(3))
    # The last four scales and minimums have their upper two bits in the first eight.
    steps = np.concatenate([low & 63, (mixed & 15) | ((low >> 6) << 4)], axis=-1)
    minimums = np.concatenate([high & 63, (mixed >> 4) | ((high >> 6) << 4)], axis=-1)
    pairs = blocks[..., 16:].reshape(*blocks.shape[:-1], 4, 1, GROUP)
    codes = np.concatenate([pairs & 15, pairs >> 4], axis=-2)
    return make_q4k(
        codes.reshape(*shape, -1),
        steps.reshape(*shape, -1),
        minimums.reshape(*shape, -1),
        d.astype(np.float16),
        dmin.astype(np.float16),
    )


def write_q4k(made: Q4K) -> Array:
    """uint8 (..., super-blocks of a row, 144).

    Raises:
        NumericsError: a scale or minimum that six bits do not hold, or one of the
            float16 that is not finite.
    """
    lead = made.d.shape
    steps, minimums = (a.reshape(*lead, 8) for a in (made.steps, made.minimums))
    if max(steps.max(initial=0), minimums.max(initial=0)) > 63:
        raise NumericsError("scales and minimums of Q4_K have six bits")
    if not (np.isfinite(made.scales).all() and np.isfinite(made.offsets).all()):
        raise NumericsError("a scale of Q4_K is beyond float16, or not a number")
    low = steps[..., :4] | ((steps[..., 4:] >> 4) << 6)
    high = minimums[..., :4] | ((minimums[..., 4:] >> 4) << 6)
    mixed = (steps[..., 4:] & 15) | ((minimums[..., 4:] & 15) << 4)
    pairs = made.codes.reshape(*lead, 4, 2, GROUP)
    body = pairs[..., 0, :] | (pairs[..., 1, :] << 4)
    units = [a.astype("<f2")[..., None].view(np.uint8) for a in (made.d, made.dmin)]
    return np.concatenate([*units, low, high, mixed, body.reshape(*lead, 128)], axis=-1)
