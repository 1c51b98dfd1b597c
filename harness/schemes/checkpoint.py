"""A checkpoint as a scheme: the weights are those stored, not quantized again."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path

import numpy as np

from harness.errors import ModelError, UnsupportedError
from harness.models.checkpoint import Checkpoint, Recipe, StoredLayer
from harness.models.checkpoint.config import read_stored_config
from harness.models.types import Operator
from harness.numerics import Quantized
from harness.schemes.types import Granularity, Scheme, TensorScheme


def scheme_of_checkpoint(folder: Path, *, name: str = "") -> Scheme:
    """What a checkpoint's configuration says, with the stored weights in it.

    Only the configuration is read; `audit` says whether the tensors agree with it.

    Args:
        folder: the checkpoint.
        name: of the scheme; "": `checkpoint-` and the folder's.

    Raises:
        ModelError: not a quantized folder, or its layers have several recipes.
    """
    folder = folder.resolve()
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


@lru_cache(maxsize=4)
def _opened(folder: str) -> Checkpoint:
    return Checkpoint(Path(folder))


def stored_layer(scheme: Scheme, operator: str) -> StoredLayer | None:
    """The stored layer of an operator; None where the checkpoint leaves it alone.

    Either may be wrapped in the other: "layers.0.q" and "inner.model.layers.0.q" are
    "model.layers.0.q" when no other layer ends so.

    Raises:
        ModelError: the checkpoint cannot be read.
    """
    layers = _opened(scheme.checkpoint).layers
    if operator in layers:
        return layers[operator]
    ends = [
        name
        for name in layers
        if name.endswith(f".{operator}") or operator.endswith(f".{name}")
    ]
    return layers[ends[0]] if len(ends) == 1 else None


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
