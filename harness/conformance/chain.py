"""Two operators behind one another: is what lies between them computed?

A graph is rewritten where operators meet: a Quantize and Dequantize between them may be
dropped, a Relu before it deleted, a sum rounded once too often, a scale moved past one
of two that read it. One operator alone, or one that is watched, shows nothing of it. So
the model is run as it is, and only its output is read: the second operator is diagonal,
and every element of its output is one element of what lay between, rounded as the
scheme says.

A faithful backend computes the first product with errors of its own, so numbers near
the middle of two codes may get either. Each element is held between the least and the
largest that its arithmetic allows; it counts as judged where those are near.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np

from harness.backends.protocol import Arithmetic, Backend, Session
from harness.conformance.probes import INPUT, OUTPUT
from harness.conformance.report import CheckReport
from harness.conformance.rounding import full_scale, roundoff
from harness.errors import UnsupportedError
from harness.models.onnx_model import OnnxModel
from harness.models.types import Operator
from harness.numerics import find_format
from harness.schemes.apply import plan_one, quantize_activation
from harness.schemes.linear_algebra import product
from harness.schemes.oracle import UNIT_ROUNDOFF, OperatorOracle, recoded
from harness.schemes.outputs import Rounding, output_grid
from harness.schemes.types import Scheme

Array = np.ndarray[Any, np.dtype[Any]]

FIRST: Final = "first"
SECOND: Final = "second"
#: Input features, or channels, and samples.
_WIDTH: Final = 64
_ROWS: Final = 16
#: Roundings of a product's inputs and of itself, before it is summed.
_DECODING: Final = 3
#: Relative error of a quotient by a scale, in any order: four roundings of float32.
_EDGE: Final = 4 * 2.0**-24
#: Range that results are calibrated for, over what they reach.
_MARGIN: Final = 1.1
#: Stands for 0 where something is divided by it.
_TINY: Final = 1e-30
#: Least and largest value that an element may have, apart by this share of the largest
#: element: near.
_NEAR: Final = 0.1
#: Share of the elements that has to be judged for the check to say anything.
_JUDGED: Final = 0.05


@dataclass(frozen=True)
class Chain:
    """What the model is: FIRST, then this, then SECOND."""

    name: str
    conv: bool = False
    relu: bool = False
    #: The model's input is added to what the first operator gives.
    residual: bool = False
    #: What the first operator gives is read twice: it is added to its Relu.
    twice: bool = False
    #: A convolution has a bias; a linear layer always has.
    bias: bool = True


CHAINS: Final = (
    Chain("linear, linear"),
    Chain("linear, Relu, linear", relu=True),
    Chain("linear, sum with the input, linear", residual=True),
    Chain("convolution, Relu, convolution", conv=True, relu=True),
    Chain("linear, sum with its Relu, linear", twice=True),
    Chain("convolution, sum with its Relu, convolution", conv=True, twice=True),
    Chain(
        "convolution without bias, sum with its Relu, convolution",
        conv=True,
        twice=True,
        bias=False,
    ),
)


def chain(backend: Backend, scheme: Scheme, folder: Path, seed: int = 0) -> CheckReport:
    """Small models of two operators, by their outputs alone."""
    judged, drawn, refused, wrong = 0, 0, [], []
    for number, kind in enumerate(CHAINS):
        rng = np.random.default_rng([seed, number])
        try:
            count, total, worst = _one(backend, scheme, kind, folder, rng)
        except UnsupportedError as error:
            refused.append(f"{kind.name}: {error}")
            continue
        judged, drawn = judged + count, drawn + total
        if worst:
            wrong.append(f"{kind.name}: {worst}")
    detail = "; ".join(wrong) or f"{judged} of {drawn} elements, each rounded once"
    if refused:
        detail += f"; {len(refused)} refused: {refused[0]}"
    passed: bool | None = not wrong
    if passed and judged < _JUDGED * max(drawn, 1):
        passed, detail = None, f"only {judged} of {drawn} elements could be judged"
    return CheckReport(name="chain", passed=passed, detail=detail, cases=judged)


def _one(
    backend: Backend,
    scheme: Scheme,
    kind: Chain,
    folder: Path,
    rng: np.random.Generator,
) -> tuple[int, int, str]:
    """Elements judged, elements in all, and the worst that is wrong in words."""
    model = write_chain(kind, scheme, folder, rng)
    first, second = model.operators()
    shape = (_ROWS, _WIDTH, 12) if kind.conv else (_ROWS, _WIDTH)
    x = rng.standard_normal(shape).astype(np.float32)
    # What goes in and what lies between is what a static scheme is calibrated for.
    own = dataclasses.replace(
        scheme,
        calibration={FIRST: float(np.abs(x).max())},
        output_calibration=_range_of_results(first, second, scheme, x),
    )
    first_given = OperatorOracle(first, own)(x, accumulate="fp64", output="fp64")
    given = first_given.exact
    summed = given + x if kind.residual else given
    if kind.twice:
        summed = given + np.maximum(given, 0)
    between = np.maximum(summed, 0) if kind.relu else summed
    largest = float(np.abs(between).max())
    own = dataclasses.replace(own, calibration={**own.calibration, SECOND: largest})
    session = backend.load(model, own)
    try:
        arithmetic = _arithmetic(session)
        y = np.asarray(session.run({INPUT: x})[OUTPUT], np.float64)
    finally:
        session.close()
    error = _largest_error(first, own, x, arithmetic)
    open_code = np.zeros(given.shape, bool)
    if first_given.rounding is not None:
        error, open_code = _after_rounding(first_given.rounding, error)
    if kind.twice:
        error = error * 2
    error = error + roundoff(arithmetic) * (np.abs(summed) + np.abs(given))
    if kind.relu:
        # What is below zero whatever the error is exactly zero.
        error = np.where(summed < -error, 0.0, error)
    found = _after(second, own, between, error, arithmetic)
    clear, low, high = found.clear & ~open_code, found.low, found.high
    if scheme.outputs is not None:
        grid = output_grid(second, own)
        low, high = low - _EDGE * np.abs(low), high + _EDGE * np.abs(high)
        clear &= grid.codes(low) == grid.codes(high)
        low, high = grid.round(low), grid.round(high)
        low = low - roundoff(arithmetic) * np.abs(low)
        high = high + roundoff(arithmetic) * np.abs(high)
    if y.shape != low.shape:
        return 0, y.size, f"shape {y.shape}, but should be {low.shape}"
    held = clear | found.bounded
    judged = int((held & (high - low <= _NEAR * np.abs(high).max())).sum())
    off = held & ~((low <= y) & (y <= high))
    if not off.any():
        return judged, y.size, ""
    place = tuple(int(i) for i in np.argwhere(off)[0])
    how = "rounded" if plan_one(own, second).activations else "as it is"
    worst = (
        f"{int(off.sum())} of {y.size} elements wrong, first at {place}: "
        f"{y[place]:.7g}, but should be {low[place]:.7g} to {high[place]:.7g} "
        f"[{between[place]:.7g} {how}, times the weight]"
    )
    return judged, y.size, worst


def _range_of_results(
    first: Operator, second: Operator, scheme: Scheme, x: Array
) -> dict[str, float]:
    """What results are calibrated for: those of full precision, and a margin.

    The margin is no power of two: steps of the results are none of the inputs'.
    """
    if scheme.outputs is None:
        return {}
    full = OperatorOracle(first, Scheme(name="full", weights=None))
    largest = float(np.abs(full(x, accumulate="fp64", output="fp64").exact).max())
    reached = largest + float(np.abs(x).max())
    gain = float(np.abs(second.weight).max())
    return {FIRST: largest * _MARGIN, SECOND: reached * gain * _MARGIN}


def _after_rounding(rounding: Rounding, error: Array) -> tuple[Array, Array]:
    """Error of rounded results, and where their code is open.

    An open code is a step apart, which is in the error: dynamic scales that are found
    from it move.
    """
    before, grid = rounding.before, rounding.grid
    error = error + _EDGE * np.abs(before)
    low, high = grid.codes(before - error), grid.codes(before + error)
    return (high - low) * grid.scale, np.asarray(low != high)


def _arithmetic(session: Session) -> Arithmetic:
    declare = getattr(session, "arithmetic", None)
    return Arithmetic() if declare is None else declare()


def _largest_error(
    first: Operator, scheme: Scheme, x: Array, arithmetic: Arithmetic
) -> Array:
    """What each element of the first product may be off by, in any order of summing.

    K roundings of partial sums, none of which exceeds the sum of the magnitudes
    (Higham, Accuracy and Stability of Numerical Algorithms, section 4.2), and those of
    the products.
    """
    oracle = OperatorOracle(first, scheme)
    entry = x
    if plan_one(scheme, first).activations:
        entry = quantize_activation(first, x, scheme).dequantize()
    sizes = product(
        first, np.abs(entry).astype(np.float64), np.abs(oracle.weight).astype(float)
    )
    unit = first.reduction * UNIT_ROUNDOFF[arithmetic.accumulate]
    unit += _DECODING * UNIT_ROUNDOFF["fp32"]
    if arithmetic.operands != "fp32":
        unit += 2 * UNIT_ROUNDOFF[arithmetic.operands]
    found: Array = unit * sizes
    return found


@dataclass(frozen=True)
class _After:
    """What may come out, element by element."""

    low: Array
    high: Array
    #: Where no error that is allowed changes a code.
    clear: Array
    #: Whether `low` and `high` hold where one does.
    bounded: bool


def _after(
    second: Operator,
    scheme: Scheme,
    between: Array,
    error: Array,
    arithmetic: Arithmetic,
) -> _After:
    """What comes out of the second operator, given what may have reached it."""
    weight = np.diagonal(OperatorOracle(second, scheme).weight.reshape(_WIDTH, -1))
    by = weight.astype(np.float64)
    if second.kind == "conv":
        by = by[:, None]
    everywhere = np.ones(between.shape, bool)
    if not plan_one(scheme, second).activations:
        expected = between * by
        slack = np.abs(by) * error + roundoff(arithmetic) * np.abs(expected)
        return _After(expected - slack, expected + slack, everywhere, bounded=True)
    entry = quantize_activation(second, between.astype(np.float32), scheme)
    decoded = entry.dequantize().astype(np.float64)
    # A scale that is found from the data moves with the largest number of it, and the
    # edges between codes with the scale.
    axes = 1 if second.kind == "linear" else (1, 2)
    largest = np.abs(between).max(axis=axes)
    moved = float((error.max(axis=axes) / np.maximum(largest, _TINY)).max())
    reach = np.copysign(error + moved * np.abs(between), between)
    ends = [decoded]
    for near in (between + reach, between - reach):
        again = recoded(near.astype(np.float32), entry)
        ends.append(again.astype(np.float64))
    clear = (ends[1] == decoded) & (ends[2] == decoded)
    values = np.stack(ends) * by
    # Scales that are rounded too may become the next ones, and all codes others.
    bounded = find_format(entry.format).kind != "block"
    if not bounded:
        values = values[:1]
    slack = (moved + roundoff(arithmetic)) * np.abs(values)
    low, high = (values - slack).min(axis=0), (values + slack).max(axis=0)
    return _After(low, high, clear, bounded)


def write_chain(
    kind: Chain, scheme: Scheme, folder: Path, rng: np.random.Generator
) -> OnnxModel:
    """An ONNX file of two operators, the second one diagonal, in `folder`."""
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    # Weights that every format holds exactly, and as large as its codes go.
    scale = full_scale(scheme.weights)
    last = np.eye(_WIDTH, dtype=np.float32) * np.float32(scale)
    shape = (_WIDTH, _WIDTH, 3) if kind.conv else (_WIDTH, _WIDTH)
    weight = rng.standard_normal(shape).astype(np.float32)
    bias = rng.standard_normal(_WIDTH).astype(np.float32)
    weights = {"w1": weight, "w2": last[..., None]}
    if not kind.conv:
        weights = {"w1": weight.T, "w2": last.T}
    if kind.bias or not kind.conv:
        weights["b1"] = bias
    if kind.conv:
        given = [INPUT, "w1", "b1"] if kind.bias else [INPUT, "w1"]
        nodes = [helper.make_node("Conv", given, ["h"], FIRST, pads=[1, 1])]
    else:
        nodes = [
            helper.make_node("MatMul", [INPUT, "w1"], ["m"], FIRST),
            helper.make_node("Add", ["m", "b1"], ["h"], "bias"),
        ]
    between = "h"
    if kind.residual:
        nodes.append(helper.make_node("Add", [between, INPUT], ["s"], "sum"))
        between = "s"
    if kind.relu or kind.twice:
        nodes.append(helper.make_node("Relu", [between], ["r"], "relu"))
        between = "r"
    if kind.twice:
        nodes.append(helper.make_node("Add", ["h", between], ["s"], "sum"))
        between = "s"
    operator = "Conv" if kind.conv else "MatMul"
    nodes.append(helper.make_node(operator, [between, "w2"], [OUTPUT], SECOND))
    axes: list[str | int] = ["n", _WIDTH, "t"] if kind.conv else ["n", _WIDTH]
    value = helper.make_tensor_value_info
    graph = helper.make_graph(
        nodes,
        "chain",
        [value(INPUT, TensorProto.FLOAT, axes)],
        [value(OUTPUT, TensorProto.FLOAT, axes)],
        [numpy_helper.from_array(array, name) for name, array in weights.items()],
    )
    opset = [helper.make_opsetid("", 21)]
    path = folder / "chain.onnx"
    onnx.save(helper.make_model(graph, opset_imports=opset, ir_version=10), path)
    return OnnxModel(path)
