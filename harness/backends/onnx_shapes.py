"""ONNX models for inputs of known shapes, for engines that want them so."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from harness.models.onnx_fold import fold

if TYPE_CHECKING:
    import onnx

Array = np.ndarray[Any, np.dtype[Any]]
#: Name and shape of every input, sorted: what a session is opened for.
Shapes = tuple[tuple[str, tuple[int, ...]], ...]

#: Shapes that depend on shapes that depend on shapes: as often as anything is found.
_ROUNDS: Final = 16


def shapes_of(feeds: Mapping[str, Array]) -> Shapes:
    """The shapes of a call's inputs."""
    return tuple(sorted((name, value.shape) for name, value in feeds.items()))


def with_shapes(data: bytes, shapes: Shapes) -> bytes:
    """The serialized model for inputs of these shapes alone; the rest is inferred.

    Shapes that contradict the model's fixed axes are left to the session to refuse.
    """
    import onnx

    model = onnx.ModelProto()
    model.ParseFromString(data)
    known = dict(shapes)
    for value in model.graph.input:
        axes = value.type.tensor_type.shape.dim
        found = known.get(value.name, ())
        for axis, length in zip(axes, found, strict=False):
            if not axis.HasField("dim_value"):
                axis.dim_value = length
    # Inferred anew: what the file says of them may name axes that are gone.
    del model.graph.value_info[:]
    for value in model.graph.output:
        value.type.tensor_type.ClearField("shape")
    fixed: bytes = onnx.shape_inference.infer_shapes(
        model, data_prop=True
    ).SerializeToString()
    return fixed


def any_shapes(data: bytes, length: int) -> Shapes:
    """Shapes of one sample, with every other axis of unknown length this long.

    Axes that bear the name of some input's first one are the batch's.
    """
    import onnx

    model = onnx.ModelProto()
    model.ParseFromString(data)
    inputs = {
        value.name: value.type.tensor_type.shape.dim for value in model.graph.input
    }
    batch = {axes[0].dim_param for axes in inputs.values() if len(axes)} - {""}
    found = {
        name: tuple(
            axis.dim_value or (1 if index == 0 or axis.dim_param in batch else length)
            for index, axis in enumerate(axes)
        )
        for name, axes in inputs.items()
    }
    return tuple(sorted(found.items()))


def fold_shapes(model: onnx.ModelProto) -> onnx.ModelProto:
    """A copy without the arithmetic of shapes that are known.

    What decodes weights stays: those initializers are not looked at.
    """
    import onnx
    from onnx import numpy_helper

    plain = onnx.ModelProto()
    plain.CopyFrom(model)
    graph = plain.graph
    given = [*graph.initializer]
    stored = [t for t in given if "/quantized/" in t.name]
    others = [t for t in given if "/quantized/" not in t.name]
    del graph.initializer[:]
    graph.initializer.extend(others)
    for _ in range(_ROUNDS):
        before = len(graph.node)
        lengths = _known_lengths(plain, stored)
        for node in list(graph.node):
            found = lengths.get(node.input[0]) if node.op_type == "Shape" else None
            if found is not None and not node.attribute:
                array = np.array(found, np.int64)
                graph.initializer.append(numpy_helper.from_array(array, node.output[0]))
                graph.node.remove(node)
        fold(plain)
        del graph.value_info[:]
        if len(graph.node) == before:
            break
    graph.initializer.extend(stored)
    return plain


def _known_lengths(
    model: onnx.ModelProto, stored: Sequence[onnx.TensorProto]
) -> dict[str, tuple[int, ...]]:
    """Tensor -> its shape, of those whose every axis inference finds."""
    import onnx

    whole = onnx.ModelProto()
    whole.CopyFrom(model)
    whole.graph.initializer.extend(stored)
    graph = onnx.shape_inference.infer_shapes(whole, data_prop=True).graph
    found = {t.name: tuple(t.dims) for t in graph.initializer}
    for value in (*graph.input, *graph.value_info):
        tensor = value.type.tensor_type
        if tensor.HasField("shape") and all(
            axis.HasField("dim_value") for axis in tensor.shape.dim
        ):
            found[value.name] = tuple(axis.dim_value for axis in tensor.shape.dim)
    return found
