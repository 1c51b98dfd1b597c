"""The configuration of compressed-tensors: what LLM Compressor saves and vLLM reads."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from harness.errors import ModelError
from harness.models.checkpoint.config import Recipe, StoredConfig
from harness.models.checkpoint.patterns import Patterns

#: Strategy -> our granularity, of weights and of inputs.
_WEIGHTS: Final = {
    "tensor": "tensor",
    "channel": "channel",
    "group": "block",
    "tensor_group": "block",
    "block": "block",
}
_INPUTS: Final = {**_WEIGHTS, "token": "row"}
#: Compression formats that are read.
FORMATS: Final = (
    "naive-quantized",
    "float-quantized",
    "int-quantized",
    "pack-quantized",
    "nvfp4-pack-quantized",
    "mxfp4-pack-quantized",
    "mxfp8-quantized",
    "mixed-precision",
)


def compressed(table: Mapping[str, Any], where: Path) -> StoredConfig:
    """Read `quantization_config` of `quant_method` "compressed-tensors".

    Raises:
        ModelError: a key is missing, or of a kind that is not read.
    """
    groups = table.get("config_groups")
    if not isinstance(groups, dict) or not groups:
        raise ModelError(f"{where}: quantization_config has no config_groups")
    for key in ("sparsity_config", "transform_config"):
        if _meant(table.get(key)):
            raise ModelError(
                f"{where}: quantization_config.{key} is not empty; sparse and rotated "
                "weights are not read"
            )
    recipes = []
    for name, group in groups.items():
        place = f"{where}: config_groups.{name}"
        if not isinstance(group, dict) or not isinstance(group.get("weights"), dict):
            raise ModelError(f"{place} says nothing of weights")
        layout = group.get("format") or table.get("format")
        if layout not in FORMATS:
            raise ModelError(
                f"{place}.format={layout!r}, but should be one of {', '.join(FORMATS)}"
            )
        recipes.append(_recipe(group, place))
    return StoredConfig(
        method="compressed-tensors",
        producer=f"compressed-tensors {table.get('version', '')}".strip(),
        recipes=tuple(recipes),
        ignore=Patterns(tuple(table.get("ignore") or ())),
    )


def _meant(table: Any) -> bool:
    """Whether an optional part of the configuration says anything."""
    if not isinstance(table, dict):
        return bool(table)
    return any(table.values()) and table.get("format") != "dense"


def _recipe(group: Mapping[str, Any], place: str) -> Recipe:
    weights, inputs = group["weights"], group.get("input_activations")
    fmt = _format(weights, f"{place}.weights")
    granularity = _known(weights, _WEIGHTS, f"{place}.weights")
    block: int | tuple[int, int] | None = None
    if fmt in ("fp8_e4m3", "int8", "int4") and granularity == "block":
        block = _block(weights, f"{place}.weights")
    found: dict[str, Any] = {}
    if isinstance(inputs, dict):
        input_format = _format(inputs, f"{place}.input_activations")
        spread = _known(inputs, _INPUTS, f"{place}.input_activations")
        own_blocks = input_format in ("fp8_e4m3", "int8", "int4")
        found = {
            "inputs": input_format,
            "input_granularity": spread,
            "input_block": inputs.get("group_size")
            if spread == "block" and own_blocks
            else None,
            # "local": blocks at run time, the tensor's scale calibrated.
            "input_dynamic": inputs.get("dynamic", False) is True,
        }
    return Recipe(
        format=fmt,
        granularity=granularity,
        block=block,
        symmetric=bool(weights.get("symmetric", True)),
        targets=Patterns(tuple(group.get("targets") or ())),
        **found,
    )


def _format(table: Mapping[str, Any], place: str) -> str:
    """Our name of what bits, type and groups make."""
    bits, kind = table.get("num_bits"), table.get("type")
    size = table.get("group_size")
    if kind == "int" and bits in (4, 8):
        return f"int{bits}"
    if kind == "float" and bits == 8:
        mx = size == 32 and table.get("scale_dtype") == "torch.uint8"
        return "mxfp8_e4m3" if mx else "fp8_e4m3"
    if kind == "float" and bits == 4 and size in (16, 32):
        return "nvfp4" if size == 16 else "mxfp4"
    raise ModelError(
        f"{place}: {bits} bits of type {kind!r} in groups of {size} are not read; "
        "FP8, MXFP8, INT8, INT4, NVFP4 and MXFP4 are"
    )


def _known(table: Mapping[str, Any], known: Mapping[str, str], place: str) -> str:
    strategy = str(table.get("strategy"))
    if strategy not in known:
        raise ModelError(
            f"{place}.strategy={strategy!r}, but should be one of {', '.join(known)}"
        )
    return known[strategy]


def _block(table: Mapping[str, Any], place: str) -> int | tuple[int, int]:
    """Elements that share a scale."""
    size = table.get("group_size")
    if table.get("strategy") == "block":
        size = table.get("block_structure")
        if isinstance(size, list) and len(size) == 2:
            rows, columns = size
            if all(isinstance(n, int) and n > 0 for n in size):
                return rows, columns
        raise ModelError(
            f"{place}.block_structure={size!r}, but should be [rows, columns]"
        )
    if not isinstance(size, int) or size < 1:
        raise ModelError(f"{place}.group_size={size!r}, but should be at least 1")
    return size
