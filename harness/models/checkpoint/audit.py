"""Whether a checkpoint is what its configuration says, before anything is run.

A damaged or mislabelled artifact passes for a bad model: scales that are NaN or zero,
codes of another type, a layer that was to be left alone and is quantized, a tensor that
should be the original's and is not. All of it is seen in the bytes.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np

from harness.errors import ModelError
from harness.models.checkpoint.checkpoint import (
    Checkpoint,
    StoredLayer,
    split,
    weight_files,
)
from harness.models.checkpoint.config import Recipe
from harness.models.checkpoint.tensors import Array, StoredTensor, read_header
from harness.numerics import Quantized, find_format, quantize

#: Format of the weights -> dtypes that their codes may be stored in: as they are,
#: packed in bytes, packed in words.
_CODES: Final = {
    "fp8_e4m3": ("F8_E4M3", "U8"),
    "fp8_e5m2": ("F8_E5M2", "U8"),
    "int8": ("I8", "I32"),
    "int4": ("I32", "U8", "I8"),
    "mxfp8_e4m3": ("F8_E4M3", "U8"),
    "mxfp8_e5m2": ("F8_E5M2", "U8"),
}
_PACKED: Final = ("U8",)
#: Parts that only a quantized layer has.
_SCALES: Final = ("weight_scale", "weight_scale_inv", "weight_packed")
#: Relative distance of a decoded weight from the original beyond which it is no
#: quantization of it: that of a weight of zeros.
_UNRELATED: Final = 1.0


@dataclass(frozen=True, kw_only=True)
class Finding:
    """One thing that is wrong: where, what was found, and what it should be."""

    #: The file, or the configuration.
    file: str
    #: The layer or tensor; "" for the folder.
    tensor: str
    #: "finite scales", "element type", ...
    check: str
    #: "3 of 128 scales are NaN or Inf, but should be 0".
    text: str

    def __str__(self) -> str:
        where = f"{self.tensor}: " if self.tensor else ""
        return f"{self.file}: {where}{self.text}"


@dataclass(frozen=True, kw_only=True)
class Audit:
    """What was looked at, and what is wrong."""

    folder: str
    #: Who wrote it, as it says.
    producer: str
    #: Format -> layers stored in it.
    layers: dict[str, int]
    #: Tensors left as they are.
    plain: int
    #: Whether there was an original to hold it against; "" if not.
    base: str
    #: Layer -> ||decoded - original|| / ||original||, and over that of rounding the
    #: original to the nearest in the same format; with `base` alone.
    errors: dict[str, tuple[float, float]]
    findings: tuple[Finding, ...]

    @property
    def ok(self) -> bool:
        """Nothing is wrong."""
        return not self.findings


def audit(
    folder: Path,
    base: Path | None = None,
    *,
    on_layer: Callable[[int, int], None] = lambda _done, _total: None,
) -> Audit:
    """Hold a checkpoint's tensors against its configuration, and against the original.

    Every layer is decoded once; one is in memory at a time.

    Args:
        folder: the checkpoint.
        base: folder of the unquantized model that it was made of.
        on_layer: told of layers done, and of all.

    Raises:
        ModelError: the configuration or a file's header cannot be read at all.
    """
    checkpoint = Checkpoint(folder)
    config = checkpoint.config
    original = None if base is None else _headers(base)
    findings = [*_missing(checkpoint), *_against_ignore(checkpoint)]
    layers: dict[str, int] = {}
    errors: dict[str, tuple[float, float]] = {}
    for index, layer in enumerate(checkpoint.layers.values()):
        layers[layer.recipe.format] = layers.get(layer.recipe.format, 0) + 1
        found, decoded = _layer(layer)
        findings.extend(found)
        if decoded is not None and original is not None:
            wrong, error = _beside(layer, decoded, original.get(f"{layer.name}.weight"))
            findings.extend(wrong)
            if error is not None:
                errors[layer.name] = error
        on_layer(index + 1, len(checkpoint.layers))
    plain = list(checkpoint.plain())
    if original is not None:
        findings.extend(_untouched(checkpoint, plain, original))
    if not layers:
        findings.append(
            Finding(
                file=str(folder / "config.json"),
                tensor="",
                check="quantized layers",
                text=f"quantized layers=0, but should be at least 1: {config.method} "
                "is said to have quantized them",
            )
        )
    return Audit(
        folder=str(folder),
        producer=config.producer,
        layers=layers,
        plain=len(plain),
        base="" if base is None else str(base),
        errors=errors,
        findings=tuple(findings),
    )


def _headers(folder: Path) -> dict[str, StoredTensor]:
    found: dict[str, StoredTensor] = {}
    for file in weight_files(folder):
        found.update(read_header(file))
    return found


def _missing(checkpoint: Checkpoint) -> Iterator[Finding]:
    """Layers that the configuration quantizes and that hold plain weights.

    Of groups that are meant for a class of layers nothing is known but names: a layer
    whose last name is that of quantized ones is one of them.
    """
    kinds = {name.rpartition(".")[2] for name in checkpoint.layers}
    for tensor in checkpoint.plain():
        layer, part = split(tensor.name)
        if part != "weight" or not tensor.is_float or len(tensor.shape) != 2:
            continue
        recipe = checkpoint.config.recipe(layer)
        if recipe is None:
            continue
        if recipe.targets.names(layer) or layer.rpartition(".")[2] in kinds:
            yield Finding(
                file=str(tensor.file),
                tensor=layer,
                check="element type",
                text=f"weight is {tensor.dtype} without scales, but should be "
                f"{recipe.format}, as config.json says of it",
            )


def _against_ignore(checkpoint: Checkpoint) -> Iterator[Finding]:
    """Layers with scales that the configuration leaves alone, or does not mention."""
    seen = set()
    for name, tensor in sorted(checkpoint.tensors.items()):
        layer, part = split(name)
        if part not in _SCALES or layer in checkpoint.layers or layer in seen:
            continue
        seen.add(layer)
        entry = checkpoint.config.ignore.matching(layer)
        why = f"ignores it ({entry!r})" if entry else "has no group for it"
        yield Finding(
            file=str(tensor.file),
            tensor=layer,
            check="left alone",
            text=f"{part} is stored, but should not be: config.json {why}",
        )


def _layer(layer: StoredLayer) -> tuple[list[Finding], Quantized | None]:
    """What is wrong with one layer by itself, and its codes if they can be read."""

    def wrong(check: str, text: str) -> Finding:
        return Finding(
            file=str(layer.where()), tensor=layer.name, check=check, text=text
        )

    findings = []
    codes = layer.codes
    if codes is None:
        return [wrong("element type", "scales without codes: weight is missing")], None
    wanted = _CODES.get(layer.recipe.format, _PACKED)
    if codes.dtype not in wanted:
        text = f"codes are {codes.dtype}, but should be {' or '.join(wanted)} for "
        return [wrong("element type", f"{text}{layer.recipe.format}")], None
    try:
        quantized = layer.read()
    except ModelError as error:
        text = str(error).removeprefix(f"{layer.where()}: {layer.name}: ")
        return [wrong("scale shape", text)], None
    shape = _scale_shape(layer.recipe, quantized)
    if shape:
        findings.append(wrong("scale shape", shape))
    findings.extend(wrong("finite scales", text) for text in _scales(quantized))
    with np.errstate(all="ignore"):
        values = quantized.dequantize()
    bad = int(np.count_nonzero(~np.isfinite(values)))
    if bad and not any(entry.check == "finite scales" for entry in findings):
        text = f"{bad} of {values.size} weights are NaN or Inf, but should be 0"
        findings.append(wrong("finite codes", text))
    if not np.any(values):
        findings.append(wrong("finite codes", "all weights decode to 0"))
    scale = layer.input_scale()
    if scale is not None and not (np.isfinite(scale) and scale > 0):
        text = f"the scale of its inputs is {scale:g}, but should be positive"
        findings.append(wrong("finite scales", text))
    elif scale is None and layer.recipe.inputs and not layer.recipe.input_dynamic:
        text = "the scale of its inputs is missing, but should be stored: config.json "
        findings.append(wrong("scale shape", f"{text}says that it is static"))
    return findings, quantized


def _scale_shape(recipe: Recipe, quantized: Quantized) -> str:
    """How the number of scales contradicts the configuration; "" if it does not."""
    rows = quantized.shape[0]
    found = list(np.shape(quantized.scales))
    wanted: object = None
    if recipe.granularity == "tensor" and np.size(quantized.scales) != 1:
        wanted = [1, 1]
    elif recipe.granularity == "channel" and found != [rows, 1]:
        wanted = [rows, 1]
    elif recipe.granularity == "block" and isinstance(recipe.block, int):
        blocks = -(-quantized.shape[1] // recipe.block)
        if found != [rows, blocks]:
            wanted = [rows, blocks]
    if wanted is None:
        return ""
    return (
        f"scales have shape {found}, but should have {wanted}: config.json says one a "
        f"{recipe.granularity}"
    )


def _scales(quantized: Quantized) -> Iterator[str]:
    scales = np.asarray(quantized.scales, np.float64)
    finite = np.isfinite(scales)
    for count, kind in (
        (int((~finite).sum()), "NaN or Inf"),
        # A block of zeros may have a scale of zero.
        (int((scales[finite] < 0).sum()), "negative"),
        (_zero_scales(quantized, scales), "zero, with codes that are not"),
    ):
        if count:
            yield f"{count} of {scales.size} scales are {kind}, but should be 0"
    whole = float(quantized.global_scale)
    if not (np.isfinite(whole) and whole > 0):
        yield f"the tensor's scale is {whole:g}, but should be positive"


def _zero_scales(quantized: Quantized, scales: Array) -> int:
    """Scales of zero whose block holds codes other than zero: it is lost."""
    if np.all(scales != 0):
        return 0
    ones = np.ones_like(np.asarray(quantized.scales, np.float32))
    marks = np.where(scales == 0, np.float32(0), ones)
    plain = dataclasses.replace(quantized, scales=ones, global_scale=1.0)
    marked = dataclasses.replace(quantized, scales=marks, global_scale=1.0)
    unscaled, kept = plain.dequantize(), marked.dequantize()
    lost = np.nan_to_num(unscaled) != np.nan_to_num(kept)
    return int(np.count_nonzero(scales == 0)) if lost.any() else 0


def _beside(
    layer: StoredLayer, quantized: Quantized, original: StoredTensor | None
) -> tuple[list[Finding], tuple[float, float] | None]:
    """How far a layer is from the original's, in itself and beside plain rounding."""

    def wrong(text: str) -> list[Finding]:
        return [
            Finding(
                file=str(layer.where()),
                tensor=layer.name,
                check="original",
                text=text,
            )
        ]

    if original is None:
        return wrong("the original has no such weight"), None
    if original.shape != tuple(quantized.shape):
        text = f"the weight is {list(quantized.shape)}, but should be "
        return wrong(f"{text}{list(original.shape)}, as the original's"), None
    weight = original.read().astype(np.float32)
    norm = float(np.linalg.norm(weight.astype(np.float64)))
    with np.errstate(all="ignore"):
        error = float(
            np.linalg.norm(quantized.dequantize().astype(np.float64) - weight)
        )
    relative = error / norm if norm else error
    nearest = quantize(
        weight,
        find_format(quantized.format).name,
        axis=quantized.axis,
        block=quantized.block or None,
    )
    least = float(np.linalg.norm(nearest.dequantize().astype(np.float64) - weight))
    found = (relative, error / least if least else 1.0)
    if not relative < _UNRELATED:
        text = f"the weight is {relative:.3g} of the original's norm away from it, but "
        return wrong(f"{text}should be below 1: zeros would be as near"), found
    return [], found


def _untouched(
    checkpoint: Checkpoint,
    plain: list[StoredTensor],
    original: dict[str, StoredTensor],
) -> Iterator[Finding]:
    """Tensors that are not quantized, bit for bit but for the type they are kept in."""

    def wrong(file: Path, name: str, text: str) -> Finding:
        return Finding(file=str(file), tensor=name, check="left alone", text=text)

    names = {tensor.name for tensor in plain}
    for tensor in plain:
        other = original.get(tensor.name)
        if other is None:
            yield wrong(tensor.file, tensor.name, "the original has no such tensor")
        elif other.shape != tensor.shape:
            text = f"shape {list(tensor.shape)}, but should be {list(other.shape)}"
            yield wrong(tensor.file, tensor.name, text)
        else:
            first, second = tensor.read(), other.read()
            same = np.array_equal(first, second.astype(first.dtype), equal_nan=True)
            if not same:
                differing = int(np.count_nonzero(first != second.astype(first.dtype)))
                text = f"{differing} of {first.size} values are not the original's"
                yield wrong(tensor.file, tensor.name, text)
    held = names | {f"{layer}.weight" for layer in checkpoint.layers}
    for name, tensor in original.items():
        if name not in held:
            file = checkpoint.folder / "model.safetensors"
            text = f"missing, but should be there as in {tensor.file}"
            yield wrong(file, name, text)
