"""What a checkpoint's configuration says is quantized, and how.

Read are `quantization_config` of `config.json` as compressed-tensors, ModelOpt, AMD
Quark and the FP8 checkpoints of Transformers write it, and ModelOpt's own
`hf_quant_config.json`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from harness.errors import ModelError
from harness.models.checkpoint.patterns import Patterns

#: Who wrote a checkpoint, by `quant_method`.
METHODS: Final = ("compressed-tensors", "modelopt", "quark", "fp8")


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """How one group of layers is stored."""

    #: Our name of the weights' format.
    format: str
    #: tensor, channel or block.
    granularity: str
    #: Values that share a scale along the input, or boxes of them; None: the format's.
    block: int | tuple[int, int] | None = None
    #: Whether integers have no zero point.
    symmetric: bool = True
    #: Format of the inputs; "": as they are.
    inputs: str = ""
    #: tensor, row or block.
    input_granularity: str = ""
    input_block: int | None = None
    #: Whether the inputs' scales are found at run time.
    input_dynamic: bool = True
    #: Which layers, when there are several groups.
    targets: Patterns = field(default_factory=Patterns)


@dataclass(frozen=True, kw_only=True)
class StoredConfig:
    """A checkpoint's quantization, as its configuration says."""

    #: One of `METHODS`.
    method: str
    #: "compressed-tensors 0.20.0", as far as the configuration says.
    producer: str
    recipes: tuple[Recipe, ...]
    #: Layers left as they are.
    ignore: Patterns

    def recipe(self, layer: str) -> Recipe | None:
        """How a layer is stored if it is; None: no group is meant for it."""
        if self.ignore.names(layer):
            return None
        named = [r for r in self.recipes if r.targets.names(layer)]
        classes = [r for r in self.recipes if r.targets.classes]
        return next(iter(named or classes), None)


def is_quantized(config: Mapping[str, Any]) -> bool:
    """Whether a `config.json` says that the folder's weights are quantized."""
    return bool(config.get("quantization_config"))


def read_stored_config(folder: Path) -> StoredConfig:
    """The folder's quantization.

    Raises:
        ModelError: there is none, or it is of a kind that is not read.
    """
    table = _table(folder)
    method = str(table.get("quant_method", ""))
    where = folder / "config.json"
    if method.startswith("modelopt"):
        from harness.models.checkpoint.config_modelopt import modelopt

        return modelopt(table, where)
    if method == "compressed-tensors":
        from harness.models.checkpoint.config_compressed import compressed

        return compressed(table, where)
    if method == "quark":
        from harness.models.checkpoint.config_quark import quark

        return quark(table, where)
    if method == "fp8":
        return _fp8(table, where)
    raise ModelError(
        f"{where}: quantization_config.quant_method={method!r}, but should be one of "
        f"{', '.join(METHODS)}"
    )


def load_json(file: Path) -> dict[str, Any]:
    """A JSON object.

    Raises:
        ModelError: the file is missing, or holds something else.
    """
    try:
        table = json.loads(file.read_text(encoding="utf-8"))
    except OSError:
        raise ModelError(f"{file}: no such file") from None
    except ValueError as error:
        raise ModelError(f"{file}: not JSON ({error})") from None
    if not isinstance(table, dict):
        raise ModelError(f"{file}: should be a JSON object")
    return table


def _table(folder: Path) -> Mapping[str, Any]:
    """`quantization_config`, or ModelOpt's own file where only that is there."""
    table = load_json(folder / "config.json").get("quantization_config")
    own = folder / "hf_quant_config.json"
    if table is None and own.is_file():
        given = load_json(own)
        inner = given.get("quantization")
        if isinstance(inner, dict):
            ignore = inner.get("exclude_modules") or []
            producer = given.get("producer") or {}
            return {
                **inner,
                "ignore": ignore,
                "producer": producer,
                "quant_method": "modelopt",
            }
    if not isinstance(table, dict) or not table:
        raise ModelError(
            f"{folder / 'config.json'}: no quantization_config; the weights of this "
            "folder are not quantized"
        )
    return table


def _fp8(table: Mapping[str, Any], where: Path) -> StoredConfig:
    """FP8 in boxes or a tensor, with `weight_scale_inv`: DeepSeek, Transformers."""
    size = table.get("weight_block_size")
    block = None
    if size is not None:
        pair = isinstance(size, list) and len(size) == 2
        if not pair or not all(isinstance(n, int) and n > 0 for n in size):
            raise ModelError(
                f"{where}: weight_block_size={size!r}, but should be [rows, columns]"
            )
        block = (size[0], size[1])
    dynamic = table.get("activation_scheme", "dynamic") == "dynamic"
    recipe = Recipe(
        format="fp8_e4m3",
        granularity="block" if block else "tensor",
        block=block,
        inputs="fp8_e4m3",
        input_granularity="block" if block else ("row" if dynamic else "tensor"),
        input_block=block[1] if block else None,
        input_dynamic=dynamic,
        targets=Patterns(("Linear",)),
    )
    ignore = tuple(table.get("modules_to_not_convert") or ())
    return StoredConfig(
        method="fp8",
        producer="fp8",
        recipes=(recipe,),
        ignore=Patterns((*ignore, "lm_head"), prefixes=True),
    )
