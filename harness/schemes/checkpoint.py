"""A checkpoint as a scheme: the weights are those stored, not quantized again."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path

import numpy as np

from harness.errors import ModelError, UnsupportedError
from harness.models.checkpoint import Checkpoint, Recipe, StoredLayer
from harness.models.checkpoint.config import read_stored_config
from harness.models.checkpoint.onnx_file import OnnxCheckpoint, StoredNode
from harness.models.types import Operator
from harness.numerics import Quantized
from harness.schemes.types import Granularity, Scheme, TensorScheme


def scheme_of_checkpoint(folder: Path, *, name: str = "") -> Scheme:
    """What a checkpoint's configuration says, with the stored weights in it.

    Of a folder only the configuration is read; `audit` says whether the tensors agree
    with it.

    Args:
        folder: the checkpoint, or a quantized ONNX file.
        name: of the scheme; "": `checkpoint-` and the folder's.

    Raises:
        ModelError: not a quantized folder or file, or its layers have several recipes.
    """
    folder = folder.resolve()
    if is_onnx_file(str(folder)):
        return _scheme_of_file(folder, name or f"checkpoint-{folder.stem}")
    config = read_stored_config(folder)
    kinds = {_tensors(recipe): recipe for recipe in config.recipes}
    if len(kinds) != 1:
        held = ", ".join(sorted({recipe.format for recipe in config.recipes}))
        raise ModelError(
            f"{folder}: its layers are stored in {len(kinds)} ways ({held}), but a "
            "target's scheme is one; make a checkpoint of each"
        )
    ((weights, activations),) = kinds
    return Scheme(
        name=name or f"checkpoint-{folder.name}",
        weights=weights,
        activations=activations,
        summary=f"as stored in {folder.name} by {config.producer}",
        checkpoint=str(folder),
    )


def _tensors(recipe: Recipe) -> tuple[TensorScheme, TensorScheme | None]:
    """A recipe in the words of schemes."""
    spread: dict[str, Granularity] = {
        "tensor": "tensor",
        "channel": "channel",
        "row": "row",
        "block": "block",
    }
    block = recipe.block[1] if isinstance(recipe.block, tuple) else recipe.block
    weights = TensorScheme(
        format=recipe.format, granularity=spread[recipe.granularity], block=block
    )
    if not recipe.inputs:
        return weights, None
    activations = TensorScheme(
        format=recipe.inputs,
        granularity=spread[recipe.input_granularity],
        block=recipe.input_block,
        dynamic=recipe.input_dynamic,
    )
    return weights, activations


def is_onnx_file(checkpoint: str) -> bool:
    """Whether a scheme's checkpoint is a quantized ONNX file, not a folder."""
    return checkpoint.endswith(".onnx")


def _scheme_of_file(file: Path, name: str) -> Scheme:
    layers = onnx_checkpoint(str(file)).layers.values()
    if not layers:
        raise ModelError(
            f"{file}: no MatMul, Gemm or Conv has a weight of stored codes: it is not "
            "quantized"
        )
    formats = sorted({layer.weight.format for layer in layers})
    rounded = [layer.inputs for layer in layers if layer.inputs is not None]
    kinds = sorted({entry.format for entry in rounded})
    static = {entry.scale is not None for entry in rounded}
    if len(formats) != 1 or len(kinds) > 1 or len(static) > 1:
        held = (
            f"weights {', '.join(formats)}; inputs {', '.join(kinds) or 'left alone'}"
        )
        raise ModelError(
            f"{file}: its layers are stored in several ways ({held}), but a target's "
            "scheme is one; quantize with options that treat them alike"
        )
    blocks = [b for layer in layers if isinstance(b := layer.weight.block, int) and b]
    one = all(layer.weight.scales.size == 1 for layer in layers)
    weights = TensorScheme(
        format=formats[0],
        granularity="block" if blocks else "tensor" if one else "channel",
        block=max(blocks, default=None),
    )
    activations = None
    if rounded:
        activations = TensorScheme(
            format=kinds[0],
            granularity="tensor",
            dynamic=not static.pop(),
            symmetric=not kinds[0].endswith("int8"),
        )
    return Scheme(
        name=name,
        weights=weights,
        activations=activations,
        summary=f"as stored in {file.name}",
        checkpoint=str(file),
    )


@lru_cache(maxsize=4)
def onnx_checkpoint(file: str) -> OnnxCheckpoint:
    """A quantized ONNX file, read once.

    Raises:
        ModelError: it cannot be read.
    """
    return OnnxCheckpoint(Path(file))


@lru_cache(maxsize=4)
def _opened(folder: str) -> Checkpoint:
    return Checkpoint(Path(folder))


def stored_layer(scheme: Scheme, operator: str) -> StoredLayer | StoredNode | None:
    """The stored layer of an operator; None where the checkpoint leaves it alone.

    Either may be wrapped in the other: "layers.0.q" and "inner.model.layers.0.q" are
    "model.layers.0.q" when no other layer ends so.

    Raises:
        ModelError: the checkpoint cannot be read.
    """
    layers: Mapping[str, StoredLayer | StoredNode]
    if is_onnx_file(scheme.checkpoint):
        layers = onnx_checkpoint(scheme.checkpoint).layers
    else:
        layers = _opened(scheme.checkpoint).layers
    if operator in layers:
        return layers[operator]
    ends = [
        name
        for name in layers
        if name.endswith(f".{operator}") or operator.endswith(f".{name}")
    ]
    return layers[ends[0]] if len(ends) == 1 else None


def node_of_file(scheme: Scheme, operator: str) -> StoredNode | None:
    """The same in a quantized ONNX file; None too where the checkpoint is a folder."""
    layer = stored_layer(scheme, operator)
    return layer if isinstance(layer, StoredNode) else None


def stored_weight(scheme: Scheme, operator: Operator) -> Quantized:
    """The operator's codes and scales as the checkpoint has them.

    Raises:
        UnsupportedError: it has none, or those of another shape.
    """
    layer = stored_layer(scheme, operator.name)
    if layer is None:
        raise UnsupportedError(
            f"{scheme.checkpoint} holds no quantized weight", operator=operator.name
        )
    found = layer.read()
    if found.shape != operator.weight.shape:
        raise UnsupportedError(
            f"{scheme.checkpoint}: {layer.name} is {list(found.shape)}, but the "
            f"model's weight is {list(operator.weight.shape)}",
            operator=operator.name,
        )
    return found


def stored_input_scale(scheme: Scheme, operator: str) -> np.float32 | None:
    """The static scale of an operator's input as stored; None: there is none."""
    layer = stored_layer(scheme, operator)
    return None if layer is None else layer.input_scale()


def rounds_input(scheme: Scheme, operator: str) -> bool:
    """Whether the checkpoint has the operator's input rounded.

    A file may leave some inputs alone; a folder's recipe is every layer's.
    """
    layer = node_of_file(scheme, operator)
    if layer is not None:
        return layer.inputs is not None
    return scheme.activations is not None


def stored_zero_point(scheme: Scheme, operator: str) -> int | None:
    """The static zero point of an operator's input as stored; None: there is none."""
    layer = node_of_file(scheme, operator)
    return layer.inputs.zero_point if layer and layer.inputs else None


def with_stored_bias(scheme: Scheme, operator: Operator) -> Operator:
    """The operator with the bias that its layer in a file has.

    A file may hold it in 32 bits, corrected for what quantization does on average, or
    apart from the product that is observed. Of a scheme without a file it stays.
    """
    if not scheme.checkpoint:
        return operator
    layer = node_of_file(scheme, operator.name)
    if layer is None:
        return operator
    return dataclasses.replace(operator, bias=layer.bias)


def rounds_between(scheme: Scheme) -> str:
    """What a file rounds or stores as codes beside its layers; "": nothing."""
    if not is_onnx_file(scheme.checkpoint):
        return ""
    count = onnx_checkpoint(scheme.checkpoint).others
    return f"the file quantizes {count} tensors beside its layers'" if count else ""
