"""Operator by operator: observed output against the oracle on the observed input."""

from __future__ import annotations

from typing import Any, Final

import numpy as np

from harness.backends.protocol import Arithmetic, QuantizedTensor
from harness.compare.flushed import TRUNCATING, FlushedSums, flushed_outputs
from harness.compare.operator_evidence import (
    Flushed,
    OperatorEvidence,
    WeightEvidence,
)
from harness.models.types import Operator
from harness.schemes.apply import plan_one, quantize_weight
from harness.schemes.oracle import OperatorOracle
from harness.schemes.types import Scheme

Array = np.ndarray[Any, np.dtype[Any]]


#: One call in how many computes a given output channel, at most; and how many channels
#: a call computes at least, so that flipped codes can be told apart.
STRIDE: Final = 4
_CHANNELS: Final = 48
#: Relative distance beyond which two values are two codes'.
_APART: Final = 2.0**-8
#: What a scale below the smallest normal float32 can make of the largest element of
#: any format, 448. Processors may flush such a scale, or such a value, to zero, and
#: engines tell them to: channels that were pruned in training hold them.
_NORMAL: Final = 448 * 2.0**-126


class _Sums:
    """Running sums of one operator: all that is kept of what was observed."""

    def __init__(self, oracle: OperatorOracle, stride: int) -> None:
        self.oracle = oracle
        self.stride = stride
        self.calls = 0
        self.residual = 0.0
        self.quantization = 0.0
        self.stored = 0.0
        self.signal = 0.0
        self.explained = 0.0
        self.elements = 0
        self.nonfinite = 0
        self.flushed = {"weights": FlushedSums(), "inputs": FlushedSums()}

    def flushed_shares(self) -> tuple[Flushed, ...]:
        """Of weights and inputs, where there are subnormal numbers."""
        noise = self.explained / max(1, self.elements)
        found = [sums.result(what, noise) for what, sums in self.flushed.items()]
        return tuple(entry for entry in found if entry is not None)


class Explained:
    """Takes in observed operators one by one; memory does not grow with the cases.

    The exact products are what checking costs. With several calls of an operator to
    come, each computes every n-th output channel, the next call the channels beside
    them: every row of every call is checked, and every channel in one call of n.

    Args:
        scheme: what was asked for, calibrated.
        arithmetic: what the backend declares about accumulation and storing.
        calls: how many calls of each operator will come at least.
    """

    def __init__(self, scheme: Scheme, arithmetic: Arithmetic, calls: int = 1) -> None:
        self.scheme = scheme
        self.arithmetic = arithmetic
        self.calls = calls
        #: Multiplications done by the oracle so far.
        self.work = 0
        self._sums: dict[str, _Sums] = {}

    def add(self, operator: Operator, x: Array, y: Array) -> None:
        """One call of one operator: its observed input and output.

        An output that is not finite where the oracle is counts as `nonfinite`; the
        residual is then infinite, so that it can never pass for explained. So it is
        when the input is not finite, or the output has another shape.
        """
        sums = self._sums.get(operator.name)
        if sums is None:
            stride = self._stride(operator)
            sums = _Sums(OperatorOracle(operator, self.scheme), stride)
            self._sums[operator.name] = sums
        channels = slice(sums.calls % sums.stride, None, sums.stride)
        sums.calls += 1
        found = sums.oracle(
            x,
            accumulate=self.arithmetic.accumulate,
            output=self.arithmetic.output,
            operands=self.arithmetic.operands,
            channels=channels,
        )
        self.work += found.exact.size * operator.reduction
        sums.elements += found.exact.size
        axis = -1 if operator.kind == "linear" else 1
        usable = bool(np.isfinite(found.exact + found.full).all())
        if not _fits(y, operator, found.exact, axis) or not usable:
            sums.residual = float("inf")
            return
        wrong = int((~np.isfinite(y)).sum())
        part = (Ellipsis, channels) if axis == -1 else (slice(None), channels)
        observed = np.asarray(y, dtype=np.float64)[part]
        sums.signal += float(np.square(found.full).sum())
        # Of a checkpoint what rounding to the nearest leaves, not what is stored: a
        # damaged weight may not widen what its own damage is held against.
        sums.quantization += float(np.square(found.nearest - found.full).sum())
        sums.stored += float(np.square(found.exact - found.full).sum())
        if wrong:
            sums.nonfinite += wrong
            sums.residual = float("inf")
        left = sums.oracle.residual(found, observed)
        sums.residual += float(np.square(left).sum())
        sums.explained += found.noise_sq
        rounds = self.arithmetic.accumulate not in TRUNCATING
        if found.rounding is None and not wrong and rounds:
            weight = sums.oracle.subnormal_weight
            if weight is not None and operator.groups == 1:
                weight = weight[channels]
            rows, missing = flushed_outputs(found, weight)
            for what, rows_of in missing.items():
                sums.flushed[what].add(left[rows], rows_of)

    def _stride(self, operator: Operator) -> int:
        """Channels apart; 1 where a channel would otherwise never be computed."""
        if operator.groups > 1:
            return 1
        out: int = operator.weight.shape[0]
        return max(1, min(STRIDE, self.calls, out // _CHANNELS))

    def result(self, execution: str = "") -> tuple[OperatorEvidence, ...]:
        """What was seen of every operator, in the order first seen."""
        return tuple(
            OperatorEvidence(
                operator=name,
                residual_sq=sums.residual,
                quantization_sq=sums.quantization,
                stored_sq=sums.stored,
                signal_sq=sums.signal,
                explained_sq=sums.explained,
                elements=sums.elements,
                execution=execution,
                nonfinite=sums.nonfinite,
                flushed=sums.flushed_shares(),
            )
            for name, sums in self._sums.items()
        )


def _fits(y: Array, operator: Operator, exact: Array, axis: int) -> bool:
    """Whether an output has the oracle's shape, with all of its channels."""
    if y.ndim != exact.ndim:
        return False
    wanted = list(exact.shape)
    wanted[axis] = operator.weight.shape[0]
    return list(y.shape) == wanted


def weight_evidence(
    operator: Operator, scheme: Scheme, shown: QuantizedTensor | None
) -> WeightEvidence:
    """An operator's weight as the backend holds it, against exact quantization."""
    plan = plan_one(scheme, operator)
    expected = scheme.weights.format if plan.weights and scheme.weights else ""
    if shown is None:
        return WeightEvidence(operator=operator.name, expected=expected, found="")
    unexplained, differing = _against_exact(operator, scheme, shown)
    scales = np.asarray(shown.scales, dtype=np.float64)
    finite = np.isfinite(scales)
    return WeightEvidence(
        operator=operator.name,
        expected=expected,
        found=shown.format,
        stored_as=shown.stored_as,
        nonfinite_scales=int((~finite).sum()),
        unusable_scales=int((scales[finite] <= 0).sum()),
        unexplained=unexplained if expected else None,
        elements=operator.weight.size,
        differing=differing if expected else None,
        from_model=_from_model(operator, scheme) if expected else None,
    )


def _from_model(operator: Operator, scheme: Scheme) -> float | None:
    """||stored - model's|| / ||model's|| of a checkpoint's weight; None: it is none."""
    if not scheme.checkpoint:
        return None
    stored = quantize_weight(operator, scheme).dequantize().astype(np.float64)
    norm = float(np.linalg.norm(operator.weight.astype(np.float64).ravel()))
    distance = float(np.linalg.norm((stored - operator.weight).ravel()))
    return distance / norm if norm else distance


def _against_exact(
    operator: Operator, scheme: Scheme, shown: QuantizedTensor
) -> tuple[float | None, int | None]:
    """||decoded - exact|| / ||exact - original||, and how many codes are others.

    0 and 0 for bit-faithful storage; None where nothing is shown.
    """
    if shown.decoded is None or not plan_one(scheme, operator).weights:
        return None, None
    exact: Array = quantize_weight(operator, scheme).dequantize()
    if shown.decoded.shape != exact.shape:
        return float("inf"), exact.size
    decoded = np.asarray(shown.decoded)
    differing = other_codes(decoded, exact)
    wide = exact.astype(np.float64)
    error = float(np.linalg.norm((decoded.astype(np.float64) - wide).ravel()))
    if error == 0:
        return 0.0, differing
    noise = float(np.linalg.norm((wide - operator.weight).ravel()))
    ratio = error / noise if noise > 0 else float("inf")
    return (ratio if np.isfinite(ratio) else float("inf")), differing


def other_codes(decoded: Array, exact: Array) -> int:
    """Elements that are another code's value, not the same with a rounding more.

    Codes of at most eight bits are 2**-7 of their value apart or more; a scale that is
    kept in bfloat16 moves a value by 2**-9. A zero may come out as a rounding of its
    neighbors' size, far below the smallest other number of the weight. What a scale
    below the smallest normal float32 can give is one value: an engine may flush it to
    zero.
    """
    first, second = decoded.astype(np.float64), exact.astype(np.float64)
    magnitude = np.abs(second)
    smallest = np.min(magnitude, where=magnitude > 0, initial=np.inf)
    near_zero = _APART * smallest if np.isfinite(smallest) else 0.0
    with np.errstate(invalid="ignore"):
        larger = np.maximum(np.abs(first), magnitude)
        apart = np.abs(first - second) > np.maximum(_APART * larger, near_zero)
        apart &= larger >= _NORMAL
    return int(np.count_nonzero(apart | ~np.isfinite(first)))
