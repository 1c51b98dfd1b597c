"""Building the ONNX model that engines of ONNX run, alike for all of them."""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import TYPE_CHECKING

from harness.backends.protocol import Support
from harness.models.types import Model
from harness.schemes.types import Scheme

if TYPE_CHECKING:
    import onnx

    from harness.schemes.onnx_model import QuantizedModel
    from harness.schemes.onnx_qdq import QuantizeInput


def support(
    model: Model, scheme: Scheme, quantize_input: QuantizeInput | None = None
) -> Support:
    """Whether ONNX operators express the scheme, operator by operator.

    `quantize_input` stands for plain ones that round inputs. One output channel of
    every operator is built: what cannot be expressed says so.
    Scales that a static scheme is calibrated with later count as given.
    """
    from harness.schemes.onnx_qdq import expressible

    if scheme.kv_cache is not None:
        return Support(
            supported=False,
            reason="keys and values go in and out of the graph as float32: a scheme "
            "with `kv_cache` runs on torch",
        )
    operators = model.operators()
    reasons = expressible(operators, scheme, quantize_input)
    if not reasons:
        return Support(supported=True)
    first, reason = next(iter(reasons.items()))
    return Support(
        supported=False,
        reason=f"{first}: {reason} ({len(reasons)} of {len(operators)})",
        operators=reasons,
    )


def unquantized(
    model: Model,
    convert: Callable[[onnx.ModelProto], onnx.ModelProto] | None = None,
) -> QuantizedModel:
    """The model as it is, after `convert`, with its operators where they are."""
    from harness.models.onnx_operators import find_operators
    from harness.schemes.onnx_model import QuantizedModel

    proto = model.onnx()
    if convert is not None:
        proto = convert(proto)
    observed = {e.name: (e.input, e.output) for e in find_operators(proto)}
    return QuantizedModel(proto, observed, {}, {})


def with_outputs(data: bytes, tensors: Collection[str]) -> bytes:
    """The serialized model with more outputs, whose types the engine infers."""
    import onnx

    model = onnx.ModelProto()
    model.ParseFromString(data)
    have = {value.name for value in model.graph.output}
    for name in sorted(set(tensors) - have):
        model.graph.output.append(onnx.ValueInfoProto(name=name))
    extended: bytes = model.SerializeToString()
    return extended


def there_and_back(element: int) -> onnx.ModelProto:
    """A number cast to an ONNX element type and back to float32: does an engine?"""
    from onnx import TensorProto, helper

    ends = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, [1]) for name in "xy"
    ]
    nodes = [
        helper.make_node("Cast", ["x"], ["c"], to=element),
        helper.make_node("Cast", ["c"], ["y"], to=TensorProto.FLOAT),
    ]
    return helper.make_model(
        helper.make_graph(nodes, "casts", ends[:1], ends[1:]),
        opset_imports=[helper.make_opsetid("", 21)],
        ir_version=10,
    )
