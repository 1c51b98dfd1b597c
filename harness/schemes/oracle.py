r"""The oracle of one operator, and how far a faithful backend may be from it.

**What is computed.** Input and weight are quantized exactly as the scheme says,
decoded, multiplied and summed in float64.

**What a faithful backend may differ by.** Three things, as an expected sum of squares:

*Accumulation.* Summing K products in arithmetic of unit roundoff u, in some order,
gives the error \sum_i d_i S_i with partial sums S_i and rounding errors d_i that are
modelled, as in Higham & Mary (2019), as independent, of mean 0 and at most u in size:
variance u^2/3. Over all orders, the mean of S_i^2 is (i/K)^2 S^2 + (i/K)(1 - i/K) P,
with S the sum and P the sum of the squared products; summed over i that is
K S^2/3 + K P/6. So E[e^2] = u^2/3 (K S^2/3 + K P/6). Summing in blocks or pairs gives
less. Decoding input and weight and multiplying them rounds each product three times:
u^2 P more. Rounding both to a narrower type of unit roundoff w before they are
multiplied, as inference in bfloat16 does, gives 2 w^2/3 P.

*Offsets.* A weight that is scale * code - offset may be multiplied as it is decoded,
or in two sums that are subtracted at the end, as llama.cpp does with Q4_K. Where inputs
have a mean both sums are much larger than what is left of them, and so are their
roundings: the noise is that of the two.

*Storing.* A result stored with unit roundoff v is off by v^2/3 y^2, and adding the bias
by u^2/3 y^2.

*Codes on the edge.* A backend may compute x * (1 / scale) instead of x / scale, or the
scale in another order: a relative difference of a few u32 = 2**-24. Values that close
to the middle between two codes may get the other code. They are found by quantizing the
input a little larger and a little smaller with the scales held. An NVFP4 block's own
scale is rounded to E4M3, so it is found anew: it may be on the edge itself. With scales
that are powers of two nothing is on the edge, because the division is exact. Which code
a backend took is read off its output (`ambiguity`), and taken out of the residual.

*Rounded results.* Where the scheme rounds results too, they are compared as the
intervals that round to them: see `outputs`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from harness.models.types import Operator
from harness.numerics import Quantized, find_format, quantize
from harness.numerics.layouts import Q4K
from harness.schemes.ambiguity import Flips, as_rows, find_flips, reach, resolve
from harness.schemes.apply import plan_one, quantize_activation, quantize_weight
from harness.schemes.checkpoint import with_stored_bias
from harness.schemes.ggml import RULE, quantize_ggml
from harness.schemes.linear_algebra import add_bias, product
from harness.schemes.outputs import Rounding, output_grid
from harness.schemes.types import Scheme

Array = np.ndarray[Any, np.dtype[Any]]

#: Unit roundoff of the arithmetic a backend may declare.
UNIT_ROUNDOFF: Final[Mapping[str, float]] = {
    "fp64": 2.0**-53,
    "fp32": 2.0**-24,
    "int32": 2.0**-53,
    "tf32": 2.0**-11,
    "fp16": 2.0**-11,
    "bf16": 2.0**-8,
    # The FP8 tensor cores of Hopper keep about 13 bits below the largest product.
    "fp8_tensor_core": 2.0**-13,
}
#: Roundings between x and x / scale in a backend that multiplies by a reciprocal of a
#: scale that it computed in its own order: four of float32.
_EDGE: Final = 4 * 2.0**-24
#: Bits of the elements whose subnormal numbers are told apart.
_NARROW: Final = 8


@dataclass(frozen=True, eq=False)
class OracleOutput:
    """What an operator should give for an input."""

    #: float64, bias included; rounded, if the scheme rounds results.
    exact: Array
    #: The same with nothing quantized.
    full: Array
    #: The same with the weight rounded to the nearest: `exact`, but for a checkpoint's
    #: stored weight, which may be anything.
    nearest: Array
    #: Expected sum of squares of a faithful backend's roundings.
    noise_sq: float
    #: Codes that a faithful backend may have got otherwise.
    flips: Flips
    #: The operator with the output channels that were asked for, and their weights as
    #: the oracle has them.
    operator: Operator
    weight: Array
    #: float64, the decoded inputs that were multiplied.
    inputs: Array
    #: Of those, what is below the smallest normal number of its format and not zero,
    #: zeros elsewhere; None: nothing is.
    subnormal_inputs: Array | None = None
    #: How the result was rounded; None: the scheme leaves results alone.
    rounding: Rounding | None = None


class OperatorOracle:
    """The oracle of one operator under one scheme; its weight is quantized once."""

    def __init__(self, operator: Operator, scheme: Scheme) -> None:
        self.scheme = scheme
        self.plan = plan_one(scheme, operator)
        if self.plan.weights:
            operator = with_stored_bias(scheme, operator)
        self.operator = operator
        #: Both float32, which holds every decoded value exactly.
        self.full_weight = np.asarray(operator.weight, dtype=np.float32)
        self.weight = self.full_weight
        #: As `OracleOutput.subnormal_inputs`, of the weight.
        self.subnormal_weight: Array | None = None
        self._nearest: Array | None = None
        #: float32, one for as many inputs as share a scale; None: there are none.
        self._offsets: Array | None = None
        if self.plan.weights:
            quantized = quantize_weight(operator, scheme)
            self.weight = quantized.dequantize()
            self.subnormal_weight = subnormals(quantized, self.weight)
            if isinstance(quantized, Q4K):
                self._offsets = quantized.offsets
            if scheme.checkpoint:
                self._nearest = nearest(self.full_weight, quantized)

    def __call__(
        self,
        x: Array,
        *,
        accumulate: str,
        output: str,
        operands: str = "fp32",
        channels: slice = slice(None),
    ) -> OracleOutput:
        """The oracle's output for an observed input.

        An input with NaN or Inf gives an output with NaN.

        Args:
            x: the operator's input before any quantization, float32.
            accumulate: arithmetic of the sum, a key of `UNIT_ROUNDOFF`.
            output: arithmetic in which the result is stored.
            operands: what decoded input and weight are rounded to first.
            channels: output channels to compute; of a grouped convolution all.
        """
        operator, full_weight, weight = self._part(channels)
        observed = np.asarray(x, dtype=np.float32)
        wide = observed.astype(np.float64)
        full = product(operator, wide, full_weight.astype(np.float64))
        quantized = wide
        others: tuple[Array, ...] = ()
        small = None
        if self.plan.activations:
            entry = quantize_activation(self.operator, observed, self.scheme)
            decoded: Array = entry.dequantize()
            quantized = decoded.astype(np.float64)
            small = subnormals(entry, decoded)
            others = self._others(observed, entry)
        exact = product(operator, quantized, weight.astype(np.float64))
        stored = add_bias(operator, exact)
        squares = _sum_of_squares(operator, quantized, weight)
        noise = _noise(exact, squares, operator.reduction, accumulate)
        if self._offsets is not None:
            noise = _noise_of_two(
                operator, quantized, exact, weight, self._offsets[channels], accumulate
            )
        if operands != "fp32":
            noise += 2 / 3 * UNIT_ROUNDOFF[operands] ** 2 * squares
        noise += (
            (UNIT_ROUNDOFF[output] ** 2 + UNIT_ROUNDOFF[accumulate] ** 2)
            / 3
            * float(np.square(stored).sum())
        )
        flips = find_flips(operator, quantized, others, exact.shape)
        whole = add_bias(operator, full)
        rounded = stored
        if self._nearest is not None:
            part = self._nearest
            if operator is not self.operator:
                part = part[channels]
            rounded = add_bias(operator, product(operator, quantized, part))
        rounding = None
        if self.plan.outputs:
            grid = output_grid(self.operator, self.scheme)
            rounding = Rounding(grid, stored, UNIT_ROUNDOFF[output])
            stored, rounded = grid.round(stored), grid.round(rounded)
        return OracleOutput(
            exact=stored,
            full=whole,
            nearest=rounded,
            noise_sq=noise,
            flips=flips,
            operator=operator,
            weight=weight,
            inputs=quantized,
            subnormal_inputs=small,
            rounding=rounding,
        )

    def _part(self, channels: slice) -> tuple[Operator, Array, Array]:
        """The operator with some output channels, full and quantized weights."""
        if channels == slice(None) or self.operator.groups > 1:
            return self.operator, self.full_weight, self.weight
        bias = self.operator.bias
        operator = dataclasses.replace(
            self.operator,
            weight=self.operator.weight[channels],
            bias=None if bias is None else bias[channels],
        )
        return operator, self.full_weight[channels], self.weight[channels]

    def against(self, found: OracleOutput, y: Array) -> tuple[float, float]:
        """Sums of squares of an observed output: the residual, and what explains it.

        Args:
            found: the oracle's output.
            y: the observed one, of the same shape; its non-finite elements count as
                equal to the oracle's and are the caller's to count.
        """
        rows = self.residual(found, y)
        return float(np.square(rows).sum()), found.noise_sq

    def residual(self, found: OracleOutput, y: Array) -> Array:
        """Observed minus oracle in rows, without what codes on the edge explain."""
        observed = np.asarray(y, dtype=np.float64)
        if found.rounding is not None:
            return self._beyond_rounding(found, found.rounding, observed)
        with np.errstate(invalid="ignore"):
            residual = np.where(np.isfinite(observed), observed - found.exact, 0.0)
        return resolve(found.operator, found.weight, found.flips, residual)

    @staticmethod
    def _beyond_rounding(found: OracleOutput, rounding: Rounding, y: Array) -> Array:
        low, high = reach(found.operator, found.weight, found.flips, y)
        before = as_rows(found.operator, rounding.before)
        rows = as_rows(found.operator, y)
        left = rounding.grid.residual(rows, before + low, before + high, rounding.unit)
        kept: Array = np.where(np.isfinite(rows), left, 0.0)
        return kept

    def _others(self, x: Array, entry: Quantized) -> tuple[Array, ...]:
        """Decoded inputs of arithmetic that is off in the last bits.

        None where the scales' own values are exact, or where there is no number.
        """
        if find_format(entry.format).scale == "fp8_e8m0" or not np.isfinite(x).all():
            return ()
        return tuple(self._nudged(x, entry, 1 + sign * _EDGE) for sign in (-1, 1))

    def _nudged(self, x: Array, entry: Quantized, factor: float) -> Array:
        """The input decoded from the codes that a slightly larger input would get."""
        rounded = self.scheme.activations
        if rounded is not None and rounded.rule == RULE:
            other: Array = quantize_ggml(x, rounded, nudge=factor).dequantize()
            return other
        return recoded((x * np.float64(factor)).astype(np.float32), entry)


def subnormals(entry: Quantized, decoded: Array) -> Array | None:
    """Decoded values of the elements below the smallest normal one; zeros elsewhere.

    None where there are none, or where elements are no numbers of 8 bits or fewer with
    an exponent.
    """
    fmt = find_format(entry.element)
    if fmt.kind != "float" or fmt.bits > _NARROW:
        return None
    table = np.abs(fmt.decoded)
    small = ((table > 0) & (table < 2.0**fmt.emin))[entry.codes]
    return np.where(small, decoded, 0).astype(np.float32) if small.any() else None


def recoded(x: Array, entry: Quantized) -> Array:
    """Another input, decoded from the codes that it gets under an entry's scales.

    Scales that are stored in a format of their own are found again, because they are
    rounded too; all others are held, so that nothing but codes can differ.

    Args:
        x: float32, of the shape that was quantized.
        entry: what was made of an input like it.
    """
    own_scales = find_format(entry.format).kind == "block"
    found: Array = quantize(
        x,
        entry.format,
        axis=entry.axis,
        block=entry.block or None,
        scale=None if own_scales else entry.scales,
        global_scale=entry.global_scale if own_scales else None,
        zero_point=entry.zero_points,
        rule=entry.rule if own_scales else None,
    ).dequantize()
    return found


def nearest(weight: Array, stored: Quantized) -> Array:
    """float64 weight, rounded to the nearest in the format of a stored one."""
    rounded: Array = quantize(
        weight, stored.format, axis=stored.axis, block=stored.block or None
    ).dequantize()
    return rounded.astype(np.float64)


def _sum_of_squares(operator: Operator, x: Array, weight: Array) -> float:
    """The squares of all products that the operator adds up, over all outputs.

    The weights' squares are summed over the output channels first: every channel
    meets the same inputs, so one product a group does for all of them.
    """
    squares = np.square(weight.astype(np.float64))
    inputs = np.square(x)
    if operator.kind == "linear":
        rows = inputs.reshape(-1, inputs.shape[-1]).sum(axis=0)
        return float(rows @ squares.sum(axis=0))
    grouped = squares.reshape(operator.groups, -1, *squares.shape[1:]).sum(axis=1)
    return float(product(operator, inputs, grouped).sum())


def _noise(exact: Array, products: float, length: int, accumulate: str) -> float:
    u = UNIT_ROUNDOFF[accumulate]
    total = float(np.square(exact).sum())
    return u * u / 3 * (length * total / 3 + length * products / 6) + u * u * products


def _noise_of_two(  # noqa: PLR0917 - what a product has
    operator: Operator,
    x: Array,
    exact: Array,
    weight: Array,
    offsets: Array,
    accumulate: str,
) -> float:
    """The same of two sums that are subtracted: of scaled codes, and of offsets."""
    wide = offsets.astype(np.float64)
    each = np.repeat(wide, weight.shape[1] // wide.shape[1], axis=1)
    second = x.reshape(*x.shape[:-1], wide.shape[1], -1).sum(axis=-1) @ wide.T
    sums = ((exact + second, weight + each), (second, each))
    return sum(
        _noise(found, _sum_of_squares(operator, x, w), operator.reduction, accumulate)
        for found, w in sums
    )


def dequantized_weights(
    operators: Sequence[Operator], scheme: Scheme
) -> dict[str, Array]:
    """float32 weights as the scheme makes them, of the operators that it quantizes."""
    return {
        operator.name: quantize_weight(operator, scheme).dequantize()
        for operator in operators
        if plan_one(scheme, operator).weights
    }
