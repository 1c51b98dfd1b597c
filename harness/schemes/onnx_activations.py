"""Quantizing an operator's input inside an ONNX graph, exactly as `numerics` does.

Static scales use QuantizeLinear and DequantizeLinear. Dynamic ones use the plain
operators that the scheme's definition is made of; casts to FP8 are ONNX's own. FP4 has
no kernel on ONNX Runtime's CPU provider, so E2M1 is rounded by Round on the three
spacings of its grid: below 2 in halves, below 4 in ones, above in twos. Round goes to
the even integer, which on each spacing is the even code.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from harness.errors import UnsupportedError
from harness.models.types import Operator
from harness.numerics import FORMATS, find_format
from harness.schemes.apply import block_size, static_scale
from harness.schemes.onnx_nodes import Nodes
from harness.schemes.outputs import output_grid
from harness.schemes.types import Scheme, TensorScheme

Array = np.ndarray[Any, np.dtype[Any]]

#: Format -> ONNX element type of the FP8 formats that ONNX Runtime's CPU casts.
FP8_TYPES: Final = {
    "fp8_e4m3": 17,
    "fp8_e4m3fnuz": 18,
    "fp8_e5m2": 19,
    "fp8_e5m2fnuz": 20,
}
_FLOAT: Final = 1
_INT32: Final = 6
_INT64: Final = 7


def quantize_input(nodes: Nodes, operator: Operator, scheme: Scheme, x: str) -> str:
    """Nodes that quantize and decode `x`; returns the decoded tensor's name.

    Raises:
        UnsupportedError: a format or rule that these nodes do not express.
    """
    tensor = scheme.activations
    assert tensor is not None  # sanity check
    if tensor.granularity == "block":
        return _blocks(nodes, operator, scheme, tensor, x)
    if not tensor.dynamic:
        return _static(nodes, tensor, float(static_scale(operator, scheme)), x)
    return _dynamic(nodes, operator, tensor, x)


def round_output(
    nodes: Nodes, operator: Operator, scheme: Scheme, y: str, output: str
) -> None:
    """Nodes that round a result `y` to its grid and give it as `output`."""
    grid = output_grid(operator, scheme)
    assert scheme.outputs is not None  # sanity check
    zero = nodes.constant(np.zeros((), scheme.outputs.format), "zero")
    by = _f(nodes, grid.scale, "scale")
    codes = nodes.add("QuantizeLinear", [y, by, zero])
    nodes.add("DequantizeLinear", [codes, by, zero], output=output)


def _f(nodes: Nodes, value: float, hint: str = "c") -> str:
    return nodes.constant(np.array(value, dtype=np.float32), hint)


def _i(nodes: Nodes, values: list[int], hint: str = "i") -> str:
    return nodes.constant(np.array(values, dtype=np.int64), hint)


def _static(nodes: Nodes, tensor: TensorScheme, scale: float, x: str) -> str:
    by = _f(nodes, scale, "scale")
    if tensor.format == "int8":
        zero = nodes.constant(np.array(0, dtype=np.int8), "zero")
    elif tensor.format in FP8_TYPES:
        zero = nodes.raw(b"\0", FP8_TYPES[tensor.format], (), "zero")
    else:
        raise UnsupportedError(f"static {tensor.format} activations in ONNX operators")
    codes = nodes.add("QuantizeLinear", [x, by, zero])
    return nodes.add("DequantizeLinear", [codes, by, zero])


def _dynamic(nodes: Nodes, operator: Operator, tensor: TensorScheme, x: str) -> str:
    if tensor.rule not in (None, "amax"):
        raise UnsupportedError(
            f"activations with the scale rule {tensor.rule!r} in ONNX operators"
        )
    if tensor.granularity == "tensor":
        axes: list[int] = []
    elif operator.kind == "linear":
        axes = [-1]
    else:
        axes = list(range(1, operator.weight.ndim))
    inputs = [nodes.add("Abs", [x])] + ([_i(nodes, axes, "axes")] if axes else [])
    amax = nodes.add("ReduceMax", inputs, keepdims=1)
    largest = find_format(tensor.format).max
    scale = _positive(nodes, nodes.add("Div", [amax, _f(nodes, largest)]), 1.0)
    ratio = nodes.add("Div", [x, scale])
    return nodes.add("Mul", [_element(nodes, tensor.format, ratio), scale])


def _positive(nodes: Nodes, scale: str, instead: float) -> str:
    """A scale of zero would divide by zero; its group holds nothing but zeros."""
    positive = nodes.add("Greater", [scale, _f(nodes, 0.0)])
    return nodes.add("Where", [positive, scale, _f(nodes, instead)])


def _element(nodes: Nodes, element: str, ratio: str) -> str:
    """Nearest value of an element format, ties to even, saturating."""
    if element in FP8_TYPES:
        codes = nodes.add("Cast", [ratio], to=FP8_TYPES[element], saturate=1)
        return nodes.add("Cast", [codes], to=_FLOAT)
    if element in ("int8", "int4"):
        half = 2.0 ** (FORMATS[element].bits - 1)
        rounded = nodes.add("Round", [ratio])
        return nodes.add("Clip", [rounded, _f(nodes, -half), _f(nodes, half - 1)])
    if element == "fp4_e2m1":
        return _e2m1(nodes, ratio)
    if element == "fp8_e1m6":
        # One spacing throughout, as an integer's, but symmetric.
        steps, top = 1 / FORMATS[element].min, FORMATS[element].max
        codes = nodes.add("Round", [nodes.add("Mul", [ratio, _f(nodes, steps)])])
        value = nodes.add("Div", [codes, _f(nodes, steps)])
        return nodes.add("Clip", [value, _f(nodes, -top), _f(nodes, top)])
    raise UnsupportedError(f"{element} activations in ONNX operators")


def _e2m1(nodes: Nodes, ratio: str) -> str:
    size = nodes.add("Abs", [ratio])
    two, half = _f(nodes, 2.0), _f(nodes, 0.5)
    halves = nodes.add("Round", [nodes.add("Mul", [size, two])])
    halves = nodes.add("Mul", [halves, half])
    ones = nodes.add("Round", [size])
    twos = nodes.add("Round", [nodes.add("Mul", [size, half])])
    twos = nodes.add("Mul", [twos, two])
    below_four = nodes.add("Less", [size, _f(nodes, 4.0)])
    upper = nodes.add("Where", [below_four, ones, twos])
    below_two = nodes.add("Less", [size, two])
    value = nodes.add("Where", [below_two, halves, upper])
    value = nodes.add("Min", [value, _f(nodes, 6.0)])
    return nodes.add("Mul", [value, nodes.add("Sign", [ratio])])


def _blocks(
    nodes: Nodes, operator: Operator, scheme: Scheme, tensor: TensorScheme, x: str
) -> str:
    """Blocks along the reduction: split it, scale each block, put it together again."""
    fmt = find_format(tensor.format)
    if fmt.kind != "block":
        raise UnsupportedError(
            f"{tensor.format} activations in groups in ONNX operators"
        )
    blocks = _Blocks(
        linear=operator.kind == "linear",
        length=operator.weight.shape[1] * operator.groups,
        size=block_size(tensor),
    )
    shape = nodes.add("Shape", [x])
    grouped = blocks.split(nodes, x)
    axis = _i(nodes, [2], "axes")
    amax = nodes.add("ReduceMax", [nodes.add("Abs", [grouped]), axis], keepdims=1)
    if fmt.scale == "fp8_e8m0":
        scale = _power_of_two(nodes, amax, fmt.emax, tensor.rule or fmt.rule)
    elif (tensor.rule or fmt.rule) != "amax":
        raise UnsupportedError(
            f"activations with the scale rule {tensor.rule!r} in ONNX operators"
        )
    else:
        scale = _nvfp4_scale(nodes, amax, _tensor_scale(nodes, operator, scheme, amax))
    ratio = nodes.add("Div", [grouped, scale])
    decoded = nodes.add("Mul", [_element(nodes, fmt.element, ratio), scale])
    return blocks.join(nodes, decoded, shape)


@dataclass(frozen=True, kw_only=True)
class _Blocks:
    """A reduction axis cut into blocks, the last one filled up with zeros."""

    linear: bool
    length: int
    size: int

    @property
    def count(self) -> int:
        return -(-self.length // self.size)

    def split(self, nodes: Nodes, x: str) -> str:
        """(rows, blocks, size), or (N, blocks, size, positions) of a convolution."""
        padding = self.count * self.size - self.length
        # 0 keeps the batch axis; -1 is whatever is left.
        flat_shape = [-1, self.length] if self.linear else [0, self.length, -1]
        pads = [0, 0, 0, padding] if self.linear else [0, 0, 0, 0, padding, 0]
        blocked = [self.count, self.size]
        shape = [-1, *blocked] if self.linear else [0, *blocked, -1]
        flat = nodes.add("Reshape", [x, _i(nodes, flat_shape, "shape")])
        if padding:
            flat = nodes.add("Pad", [flat, _i(nodes, pads, "pads")])
        return nodes.add("Reshape", [flat, _i(nodes, shape, "shape")])

    def join(self, nodes: Nodes, x: str, shape: str) -> str:
        """Undo `split`; `shape` is the tensor that holds the shape it had."""
        padded = self.count * self.size
        flat_shape = [-1, padded] if self.linear else [0, padded, -1]
        flat = nodes.add("Reshape", [x, _i(nodes, flat_shape, "shape")])
        if padded != self.length:
            cut = [_i(nodes, [0]), _i(nodes, [self.length]), _i(nodes, [1])]
            flat = nodes.add("Slice", [flat, *cut])
        return nodes.add("Reshape", [flat, shape])


def _power_of_two(nodes: Nodes, amax: str, emax: int, rule: str) -> str:
    """2**(floor(log2(amax)) - emax), exactly: a logarithm, corrected by comparison."""
    if rule != "floor":
        raise UnsupportedError(
            f"activations with the scale rule {rule!r} in ONNX operators"
        )
    # Up to 2**127, then Inf, which no finite number reaches.
    table = np.append(np.ldexp(1.0, np.arange(-127, 128)), np.inf).astype(np.float32)
    powers = nodes.constant(table, "powers")
    # Zero has no logarithm; it gets the smallest scale, as in numerics.
    safe = nodes.add("Max", [amax, _f(nodes, float(table[0]))])
    log = nodes.add("Mul", [nodes.add("Log", [safe]), _f(nodes, 1 / np.log(2.0))])
    guess = nodes.add("Cast", [nodes.add("Floor", [log])], to=_INT32)

    def power(exponent: str) -> str:
        index = nodes.add("Add", [exponent, _int(nodes, 127)])
        index = nodes.add("Clip", [index, _int(nodes, 0), _int(nodes, 255)])
        return nodes.add("Gather", [powers, index])

    one = _int(nodes, 1)
    high = nodes.add("Greater", [power(guess), safe])
    guess = nodes.add("Where", [high, nodes.add("Sub", [guess, one]), guess])
    above = nodes.add("Add", [guess, one])
    low = nodes.add("LessOrEqual", [power(above), safe])
    exponent = nodes.add("Where", [low, above, guess])
    return power(nodes.add("Sub", [exponent, _int(nodes, emax)]))


def _int(nodes: Nodes, value: int) -> str:
    return nodes.constant(np.array(value, dtype=np.int32), "n")


def _tensor_scale(nodes: Nodes, operator: Operator, scheme: Scheme, amax: str) -> str:
    """NVFP4's scale of the whole tensor: calibrated, or from all of its blocks."""
    tensor = scheme.activations
    assert tensor is not None  # sanity check
    if not tensor.dynamic:
        return _f(nodes, float(static_scale(operator, scheme)), "tensor_scale")
    largest = FORMATS["fp4_e2m1"].max * FORMATS["fp8_e4m3"].max
    every = nodes.add("ReduceMax", [amax], keepdims=0)
    return _positive(nodes, nodes.add("Div", [every, _f(nodes, largest)]), 1.0)


def _nvfp4_scale(nodes: Nodes, amax: str, by_tensor: str) -> str:
    """E4M3 block scale times the tensor's scale."""
    wanted = nodes.add("Div", [amax, _f(nodes, FORMATS["fp4_e2m1"].max)])
    wanted = nodes.add("Div", [wanted, by_tensor])
    codes = nodes.add("Cast", [wanted], to=FP8_TYPES["fp8_e4m3"], saturate=1)
    scale = nodes.add("Cast", [codes], to=_FLOAT)
    scale = _positive(nodes, scale, FORMATS["fp8_e4m3"].min)
    return nodes.add("Mul", [scale, by_tensor])
