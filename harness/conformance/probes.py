"""Models of one operator, and what a backend makes of them."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np

from harness.backends.protocol import Arithmetic, Backend, Session
from harness.models.onnx_model import OnnxModel
from harness.models.types import Operator
from harness.schemes.types import Scheme

Array = np.ndarray[Any, np.dtype[Any]]

#: The operator's name in every probe, its input and its output.
NAME = "probe"
INPUT = "x"
OUTPUT = "y"


@dataclass(frozen=True, eq=False)
class Shape:
    """A linear layer, or a convolution over one axis."""

    weight: Array
    bias: Array | None = None
    padding: int = 0
    stride: int = 1
    groups: int = 1
    #: Leading axes of a linear layer's input; 2: (batch, positions, K).
    leading: int = 1

    @property
    def linear(self) -> bool:
        """Whether it is a linear layer."""
        return self.weight.ndim == 2


@dataclass
class Probe:
    """An operator under a scheme, loaded; closes its session at the end.

    Args:
        backend: under test.
        scheme: calibrated here, if its activations are static.
        shape: the operator.
        folder: where the model's file is written.
        amax: the largest input that a static scheme is calibrated for.
    """

    backend: Backend
    scheme: Scheme
    shape: Shape
    folder: Path
    amax: float = 1.0
    session: Session = field(init=False)
    operator: Operator = field(init=False)

    def __post_init__(self) -> None:
        self.scheme = dataclasses.replace(
            self.scheme,
            calibration={NAME: self.amax},
            output_calibration={NAME: self.amax * _gain(self.shape)},
        )

    def __enter__(self) -> Self:
        model = write_model(self.shape, self.folder)
        self.operator = model.operators()[0]
        self.session = self.backend.load(model, self.scheme)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.session.close()

    @property
    def arithmetic(self) -> Arithmetic:
        """What the session declares; float32 where it declares nothing."""
        declare = getattr(self.session, "arithmetic", None)
        return Arithmetic() if declare is None else declare()

    def __call__(self, x: Array) -> Array:
        """The operator's output."""
        return np.asarray(self.session.run({INPUT: x})[OUTPUT])

    def captured(self, x: Array) -> Mapping[str, Array]:
        """Output, and the operator's observed input and output."""
        return self.session.run({INPUT: x}, capture=[NAME])


def _gain(shape: Shape) -> float:
    """Range of the results over that of the inputs, of which they are sums.

    Exact for a diagonal; of drawn sums, whose terms partly cancel, a few go beyond.
    """
    rows = np.asarray(shape.weight, np.float64).reshape(len(shape.weight), -1)
    found = float(np.sqrt(np.square(rows).sum(axis=1)).max(initial=0.0))
    return found or 1.0


def write_model(shape: Shape, folder: Path) -> OnnxModel:
    """An ONNX file of one operator, in `folder`."""
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    out = shape.weight.shape[0]
    weight = np.asarray(shape.weight, np.float32)
    names = [INPUT, "weight"]
    tensors = [numpy_helper.from_array(weight.T if shape.linear else weight, "weight")]
    if shape.bias is not None:
        bias = np.asarray(shape.bias, np.float32)
        tensors.append(numpy_helper.from_array(bias, "bias"))
    if shape.linear:
        product = OUTPUT if shape.bias is None else "product"
        nodes = [helper.make_node("MatMul", names, [product], NAME)]
        if shape.bias is not None:
            nodes.append(helper.make_node("Add", [product, "bias"], [OUTPUT], "add"))
        axes: list[str | int] = [f"n{i}" for i in range(shape.leading)]
        x, y = [*axes, weight.shape[1]], [*axes, out]
    else:
        names += ["bias"] if shape.bias is not None else []
        attributes: dict[str, Any] = {
            "pads": [shape.padding] * 2,
            "strides": [shape.stride],
            "group": shape.groups,
        }
        nodes = [helper.make_node("Conv", names, [OUTPUT], NAME, **attributes)]
        x, y = ["n0", weight.shape[1] * shape.groups, "t"], ["n0", out, "u"]
    graph = helper.make_graph(
        nodes,
        "probe",
        [helper.make_tensor_value_info(INPUT, TensorProto.FLOAT, x)],
        [helper.make_tensor_value_info(OUTPUT, TensorProto.FLOAT, y)],
        tensors,
    )
    opset = [helper.make_opsetid("", 21)]
    path = folder / "probe.onnx"
    onnx.save(helper.make_model(graph, opset_imports=opset, ir_version=10), path)
    return OnnxModel(path)
