"""A folder of quantized weights, read layer by layer with no vendor's library.

What a layer decodes to is exact: element times scale in float32, as `Quantized` says.
Vendors' libraries round that product to the type of the unquantized weights, which is
`StoredLayer.decoded_as`.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Final

import numpy as np

from harness.errors import ModelError, NumericsError
from harness.models.checkpoint.config import Recipe, StoredConfig, read_stored_config
from harness.models.checkpoint.tensors import Array, StoredTensor, read_header
from harness.numerics import Quantized
from harness.numerics.layouts.checkpoints import (
    from_compressed_tensors,
    from_modelopt,
    from_quark,
)

#: Names of tensors that belong to a quantized layer, the longest first.
PARTS: Final = (
    "weight_global_scale",
    "input_global_scale",
    "weight_zero_point",
    "input_zero_point",
    "weight_scale_inv",
    "weight_scale_2",
    "weight_packed",
    "weight_g_idx",
    "weight_scale",
    "weight_shape",
    "input_scale",
    "weight",
)
#: Parts that only a quantized layer has.
_SCALES: Final = ("weight_scale", "weight_scale_inv", "weight_packed")


@dataclass(frozen=True)
class StoredLayer:
    """One layer's tensors, where they lie, and how they are to be read."""

    name: str
    parts: Mapping[str, StoredTensor]
    recipe: Recipe
    method: str

    def read(self) -> Quantized:
        """Codes with their scales.

        Raises:
            ModelError: a part is missing, or does not fit the others.
        """
        arrays = {name: tensor.read() for name, tensor in self.parts.items()}
        try:
            return self._decode(arrays)
        except NumericsError as error:
            raise ModelError(f"{self.where()}: {self.name}: {error}") from None

    def _decode(self, arrays: dict[str, Array]) -> Quantized:
        if self.method == "compressed-tensors":
            fmt, block = self.recipe.format, self.recipe.block
            return from_compressed_tensors(arrays, fmt, block=block)
        if self.method == "quark":
            return from_quark(arrays, self.recipe.format)
        if "weight_scale_inv" in arrays:
            # A factor in spite of its name.
            arrays["weight_scale"] = arrays.pop("weight_scale_inv")
        return from_modelopt(arrays, self.recipe.format, block=self.recipe.block)

    def input_scale(self) -> np.float32 | None:
        """The stored scale of the inputs, a factor; None: there is none.

        For NVFP4 it is the tensor's scale, amax / (6 * 448).
        """
        if "input_global_scale" in self.parts:
            divisor = self.parts["input_global_scale"].read().reshape(-1)
            with np.errstate(divide="ignore"):
                return np.float32(np.float32(1) / np.float32(divisor[0]))
        if "input_scale" in self.parts:
            return np.float32(self.parts["input_scale"].read().reshape(-1)[0])
        return None

    def where(self) -> Path:
        """The file that has its codes."""
        held = self.parts.get("weight") or self.parts.get("weight_packed")
        return (held or next(iter(self.parts.values()))).file

    @property
    def codes(self) -> StoredTensor | None:
        """The tensor of codes."""
        return self.parts.get("weight_packed") or self.parts.get("weight")


@dataclass(frozen=True)
class Checkpoint:
    """A Hugging Face folder whose weights are quantized.

    Args:
        folder: with `config.json` and safetensors files.
    """

    folder: Path

    @cached_property
    def config(self) -> StoredConfig:
        """What the configuration says."""
        return read_stored_config(self.folder)

    @cached_property
    def tensors(self) -> dict[str, StoredTensor]:
        """Every tensor by name; headers are read, bytes are not.

        Raises:
            ModelError: a file is missing or damaged.
        """
        found: dict[str, StoredTensor] = {}
        for file in weight_files(self.folder):
            found.update(read_header(file))
        return found

    @cached_property
    def layers(self) -> dict[str, StoredLayer]:
        """Layers that hold codes with scales, in order of name."""
        parts: dict[str, dict[str, StoredTensor]] = {}
        for name, tensor in self.tensors.items():
            layer, part = split(name)
            if part:
                parts.setdefault(layer, {})[part] = tensor
        found = {}
        for name in sorted(parts):
            if not any(part in parts[name] for part in _SCALES):
                continue
            recipe = self.config.recipe(name)
            if recipe is not None:
                found[name] = StoredLayer(name, parts[name], recipe, self.config.method)
        return found

    def plain(self) -> Iterator[StoredTensor]:
        """Tensors that belong to no quantized layer, in order of name."""
        for name in sorted(self.tensors):
            layer, part = split(name)
            if not (part and layer in self.layers):
                yield self.tensors[name]

    def weights(self) -> Iterator[tuple[str, Array]]:
        """Every weight and buffer of the model, float32 where it was quantized."""
        for name, layer in self.layers.items():
            yield f"{name}.weight", np.asarray(layer.read().dequantize())
        for tensor in self.plain():
            yield tensor.name, tensor.read()


def split(name: str) -> tuple[str, str]:
    """A tensor's layer and part; the part is "" for a name that is none of `PARTS`."""
    layer, _, part = name.rpartition(".")
    return (layer, part) if layer and part in PARTS else (name, "")


def weight_files(folder: Path) -> list[Path]:
    """`model.safetensors`, or the parts that its index names.

    Raises:
        ModelError: a file is missing, leaves the folder, or the index is malformed.
    """
    index = folder / "model.safetensors.index.json"
    files = [folder / "model.safetensors"]
    if index.is_file():
        try:
            parts = set(json.loads(index.read_text("utf-8"))["weight_map"].values())
        except (ValueError, KeyError, AttributeError, TypeError) as error:
            raise ModelError(f"{index}: not an index of weights ({error!r})") from None
        files = [folder / str(part) for part in sorted(parts, key=str)]
    for file in files:
        if not file.resolve().is_relative_to(folder.resolve()):
            raise ModelError(f"{index}: {file} leaves the folder")
        if not file.is_file():
            raise ModelError(f"{folder}: no {file.name}; only safetensors are read")
    return files
