"""The configuration of AMD Quark: what ROCm and Ryzen AI deploy."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from harness.errors import ModelError
from harness.models.checkpoint.config import Recipe, StoredConfig
from harness.models.checkpoint.patterns import Patterns

#: (dtype, scheme of scales) -> our format.
_FORMATS: Final = {
    ("fp8_e4m3", "per_tensor"): "fp8_e4m3",
    ("fp8_e4m3", "per_channel"): "fp8_e4m3",
    ("int8", "per_tensor"): "int8",
    ("int8", "per_channel"): "int8",
    ("fp8_e4m3", "per_group"): "mxfp8_e4m3",
    ("fp8_e5m2", "per_group"): "mxfp8_e5m2",
    ("fp6_e2m3", "per_group"): "mxfp6_e2m3",
    ("fp6_e3m2", "per_group"): "mxfp6_e3m2",
    ("fp4", "per_group"): "mxfp4",
}
_GRANULARITIES: Final = {
    "per_tensor": "tensor",
    "per_channel": "channel",
    "per_group": "block",
}


def quark(table: Mapping[str, Any], where: Path) -> StoredConfig:
    """Read `quantization_config` of `quant_method` "quark".

    Raises:
        ModelError: a data type, or a way of packing, that is not read.
    """
    for key in ("layer_quant_config", "layer_type_quant_config"):
        if table.get(key):
            raise ModelError(
                f"{where}: quantization_config.{key} is not empty; only checkpoints "
                "with one configuration for all layers are read"
            )
    export = table.get("export") or {}
    if export.get("weight_format", "real_quantized") != "real_quantized":
        raise ModelError(
            f"{where}: export.weight_format={export['weight_format']!r}, but should be "
            "'real_quantized': export the codes, not their values"
        )
    config = table.get("global_quant_config")
    if not isinstance(config, dict) or not isinstance(config.get("weight"), dict):
        raise ModelError(f"{where}: global_quant_config says nothing of weights")
    weights, inputs = config["weight"], config.get("input_tensors")
    fmt, granularity = _format(weights, f"{where}: global_quant_config.weight")
    found: dict[str, Any] = {}
    if isinstance(inputs, dict):
        name, spread = _format(inputs, f"{where}: global_quant_config.input_tensors")
        found = {
            "inputs": name,
            "input_granularity": "row" if spread == "channel" else spread,
            # Blocks are scaled from what they hold, whatever was observed before.
            "input_dynamic": bool(inputs.get("is_dynamic")) or spread == "block",
        }
    recipe = Recipe(
        format=fmt,
        granularity=granularity,
        symmetric=weights.get("symmetric") is not False,
        targets=Patterns(("Linear",)),
        **found,
    )
    return StoredConfig(
        method="quark",
        producer=f"amd-quark {table.get('version', '')}".strip(),
        recipes=(recipe,),
        ignore=Patterns(tuple(table.get("exclude") or ())),
    )


def _format(table: Mapping[str, Any], place: str) -> tuple[str, str]:
    """Our names of the format and of the granularity."""
    kind = (str(table.get("dtype")), str(table.get("qscheme")))
    grouped = kind[1] == "per_group"
    mx = table.get("scale_format") == "e8m0" and table.get("group_size") == 32
    if kind not in _FORMATS or (grouped and not mx):
        raise ModelError(
            f"{place}: {kind[0]} {kind[1]} in groups of {table.get('group_size')} is "
            "not read; FP8 and INT8 by tensor or channel and OCP MX formats are"
        )
    return _FORMATS[kind], _GRANULARITIES[kind[1]]
