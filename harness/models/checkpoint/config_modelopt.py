"""The configuration of NVIDIA's ModelOpt: what TensorRT-LLM and vLLM deploy."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from harness.errors import ModelError
from harness.models.checkpoint.config import Recipe, StoredConfig
from harness.models.checkpoint.patterns import Patterns

_LINEAR: Final = Patterns(("Linear",))
#: `quant_algo` -> how layers are stored.
ALGORITHMS: Final = {
    "FP8": Recipe(
        format="fp8_e4m3",
        granularity="tensor",
        inputs="fp8_e4m3",
        input_granularity="tensor",
        input_dynamic=False,
        targets=_LINEAR,
    ),
    "FP8_PER_CHANNEL_PER_TOKEN": Recipe(
        format="fp8_e4m3",
        granularity="channel",
        inputs="fp8_e4m3",
        input_granularity="row",
        targets=_LINEAR,
    ),
    "NVFP4": Recipe(
        format="nvfp4",
        granularity="block",
        inputs="nvfp4",
        input_granularity="block",
        input_dynamic=False,
        targets=_LINEAR,
    ),
    "W4A16_NVFP4": Recipe(format="nvfp4", granularity="block", targets=_LINEAR),
    "MXFP8": Recipe(
        format="mxfp8_e4m3",
        granularity="block",
        inputs="mxfp8_e4m3",
        input_granularity="block",
        targets=_LINEAR,
    ),
}


def modelopt(table: Mapping[str, Any], where: Path) -> StoredConfig:
    """Read what ModelOpt writes into `config.json` or `hf_quant_config.json`.

    Raises:
        ModelError: an algorithm that is not read.
    """
    producer = table.get("producer") or {}
    name = f"{producer.get('name', 'modelopt')} {producer.get('version', '')}".strip()
    ignore = Patterns(tuple(table.get("ignore") or ()))
    layers = table.get("quantized_layers")
    if table.get("quant_algo") == "MIXED_PRECISION" and isinstance(layers, dict):
        by_algorithm: dict[str, list[str]] = {}
        for layer, entry in layers.items():
            by_algorithm.setdefault(str(entry.get("quant_algo")), []).append(layer)
        recipes = tuple(
            dataclasses.replace(
                _algorithm(algorithm, where), targets=Patterns(tuple(members))
            )
            for algorithm, members in by_algorithm.items()
        )
    else:
        recipes = (_algorithm(table.get("quant_algo"), where),)
    return StoredConfig(
        method="modelopt", producer=name, recipes=recipes, ignore=ignore
    )


def _algorithm(name: Any, where: Path) -> Recipe:
    if name not in ALGORITHMS:
        raise ModelError(
            f"{where}: quant_algo={name!r} is not read; {', '.join(ALGORITHMS)} are"
        )
    return ALGORITHMS[name]
