"""The schemes that ship: adding one is adding a value."""

from __future__ import annotations

import dataclasses
import difflib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import numpy as np

from harness.errors import NumericsError, UsageError
from harness.numerics import Format, find_format, quantize
from harness.schemes.checkpoint import is_onnx_file, scheme_of_checkpoint
from harness.schemes.ggml import RULE, check_ggml
from harness.schemes.outputs import OUTPUT_FORMATS
from harness.schemes.quantizers import QUANTIZERS, find_quantizer
from harness.schemes.types import Granularity, Scheme, TensorScheme

_CHANNEL_FP8: Final = TensorScheme(format="fp8_e4m3", granularity="channel")
_CHANNEL_INT8: Final = TensorScheme(format="int8", granularity="channel")
_RANGE_UINT8: Final = TensorScheme(
    format="uint8", granularity="tensor", symmetric=False
)


def _blocks(fmt: str, block: int | None = None) -> TensorScheme:
    return TensorScheme(format=fmt, granularity="block", block=block)


#: Name -> scheme.
SCHEMES: Final[dict[str, Scheme]] = {
    scheme.name: scheme
    for scheme in (
        Scheme(
            name="fp8_e4m3",
            weights=_CHANNEL_FP8,
            activations=TensorScheme(format="fp8_e4m3", granularity="row"),
            summary="FP8 E4M3: weights a scale a channel, inputs dynamic a row",
        ),
        Scheme(
            name="fp8_e4m3_static",
            weights=_CHANNEL_FP8,
            activations=TensorScheme(
                format="fp8_e4m3", granularity="tensor", dynamic=False
            ),
            summary="FP8 E4M3: weights a scale a channel, inputs one static scale",
        ),
        Scheme(
            name="fp8_weight_only",
            weights=_CHANNEL_FP8,
            summary="FP8 E4M3 weights, a scale a channel; activations as they are",
        ),
        Scheme(
            name="mxfp8",
            weights=_blocks("mxfp8_e4m3"),
            activations=_blocks("mxfp8_e4m3"),
            summary="OCP MXFP8 (E4M3): blocks of 32, floor rule; weights, activations",
        ),
        Scheme(
            name="mxfp8_weight_only",
            weights=_blocks("mxfp8_e4m3"),
            summary="OCP MXFP8 (E4M3) weights: blocks of 32, floor rule",
        ),
        Scheme(
            name="mxfp4",
            weights=_blocks("mxfp4"),
            activations=_blocks("mxfp4"),
            summary="OCP MXFP4: blocks of 32, floor rule; weights, activations",
        ),
        Scheme(
            name="mxfp4_weight_only",
            weights=_blocks("mxfp4"),
            summary="OCP MXFP4 weights: blocks of 32, floor rule",
        ),
        Scheme(
            name="nvfp4",
            weights=_blocks("nvfp4"),
            # The tensor's scale is calibrated, as TensorRT and vLLM deploy it.
            activations=TensorScheme(
                format="nvfp4", granularity="block", dynamic=False
            ),
            summary="NVFP4: blocks of 16; activations with a calibrated tensor scale",
        ),
        Scheme(
            name="nvfp4_weight_only",
            weights=_blocks("nvfp4"),
            summary="NVFP4 weights: blocks of 16, E4M3 scales, one fp32 scale a tensor",
        ),
        Scheme(
            name="bfp16",
            weights=_blocks("bfp16"),
            activations=_blocks("bfp16"),
            summary="BFP16: eight values of 8 bits share an exponent; both sides",
        ),
        Scheme(
            name="int8",
            weights=_CHANNEL_INT8,
            activations=TensorScheme(format="int8", granularity="row"),
            summary="INT8 symmetric: weights a scale a channel, inputs dynamic a row",
        ),
        Scheme(
            name="int8_static",
            weights=_CHANNEL_INT8,
            activations=TensorScheme(
                format="int8", granularity="tensor", dynamic=False
            ),
            summary="INT8 symmetric: weights a scale a channel, inputs one static",
        ),
        Scheme(
            name="int8_weight_only",
            weights=_CHANNEL_INT8,
            summary="INT8 symmetric weights, a scale a channel",
        ),
        Scheme(
            name="int4",
            weights=_blocks("int4", 32),
            summary="INT4 symmetric weights in groups of 32",
        ),
        Scheme(
            name="int4_g128",
            weights=_blocks("int4", 128),
            summary="INT4 symmetric weights in groups of 128",
        ),
        Scheme(
            name="nf4",
            weights=_blocks("nf4", 64),
            summary="NF4 weights in groups of 64, as QLoRA and OpenVINO store them",
        ),
    )
}

_KEYS: Final = (
    "base",
    "weights",
    "activations",
    "outputs",
    "kv_cache",
    "keep",
    "summary",
)
_TENSOR_KEYS: Final = ("format", "granularity", "block", "dynamic", "rule")


def scheme_by_name(name: str, *, extra: tuple[str, ...] = ()) -> Scheme:
    """The scheme of that name.

    Raises:
        UsageError: there is none; says which one was probably meant.
    """
    if name in SCHEMES:
        return SCHEMES[name]
    known = [*SCHEMES, *extra]
    close = difflib.get_close_matches(name, known, n=1)
    hint = f"did you mean {close[0]!r}?" if close else f"known: {', '.join(known)}"
    raise UsageError(f"unknown scheme {name!r}; {hint}")


def scheme_from_table(
    name: str, table: Mapping[str, Any], folder: Path = Path()
) -> Scheme:
    """A `[scheme.NAME]` table of suite.toml.

    Args:
        name: of the scheme.
        table: its keys.
        folder: that a checkpoint's path is relative to.

    Raises:
        UsageError: an unknown key or value; says what there is.
        ModelError: the checkpoint that it names is none.
    """
    if "checkpoint" in table:
        return _checkpoint(name, table, folder)
    if "quantizer" in table:
        return _by_quantizer(name, table)
    _known(table, _KEYS, f"scheme.{name}")
    given = table.get("base")
    if given is not None and not isinstance(given, str):
        raise UsageError(f"scheme.{name}.base={given!r}, but should be a scheme's name")
    base = None if given is None else scheme_by_name(given)
    if base is None and not {"weights", "kv_cache"} & set(table):
        raise UsageError(
            f"scheme.{name} has neither `base` nor `weights` nor `kv_cache`"
        )
    scheme = (
        dataclasses.replace(base, name=name)
        if base
        else Scheme(name=name, weights=None)
    )
    changes: dict[str, Any] = {}
    for key in ("weights", "activations"):
        if key in table:
            stored = key == "weights"
            changes[key] = _tensor(table[key], f"scheme.{name}.{key}", stored=stored)
    if "kv_cache" in table:
        changes["kv_cache"] = _kv_cache(table["kv_cache"], f"scheme.{name}.kv_cache")
    if "outputs" in table:
        changes["outputs"] = _outputs(table["outputs"], f"scheme.{name}.outputs")
    if "keep" in table:
        keep = table["keep"]
        if not isinstance(keep, list) or not all(isinstance(p, str) for p in keep):
            raise UsageError(
                f"scheme.{name}.keep={keep!r}, but should be a list of texts"
            )
        changes["keep"] = tuple(keep)
    if "summary" in table:
        if not isinstance(table["summary"], str):
            raise UsageError(
                f"scheme.{name}.summary={table['summary']!r}, but should be a text"
            )
        changes["summary"] = table["summary"]
    found = dataclasses.replace(scheme, **changes)
    if found.outputs is not None and found.weights is None:
        raise UsageError(
            f"scheme.{name}.outputs rounds results of operators whose weights are "
            "quantized, but the scheme has no `weights`"
        )
    return found


def _checkpoint(name: str, table: Mapping[str, Any], folder: Path) -> Scheme:
    """The stored weights of a folder or file: nothing else is to be said of them."""
    _known(table, ("checkpoint",), f"scheme.{name}")
    given = table["checkpoint"]
    there = isinstance(given, str) and (
        (folder / given).is_file() if is_onnx_file(given) else (folder / given).is_dir()
    )
    if not there:
        raise UsageError(
            f"scheme.{name}.checkpoint={given!r}, but should be a folder with "
            f"config.json and safetensors, or a .onnx file, relative to {folder}"
        )
    return scheme_of_checkpoint(folder / given, name=name)


def _by_quantizer(name: str, table: Mapping[str, Any]) -> Scheme:
    """What a library's quantizer will make of the model.

    Until it has, formats are no more than its usual ones; whether inputs are rounded
    is known.
    """
    _known(table, ("quantizer", "options"), f"scheme.{name}")
    given, options = table["quantizer"], table.get("options", {})
    if not isinstance(given, str):
        raise UsageError(
            f"scheme.{name}.quantizer={given!r}, but should be one of "
            f"{', '.join(QUANTIZERS)}"
        )
    if not isinstance(options, dict):
        raise UsageError(f"scheme.{name}.options={options!r}, but should be a table")
    try:
        json.dumps(options)
    except TypeError as error:
        raise UsageError(
            f"scheme.{name}.options={options!r}, but should hold texts, numbers, "
            f"true, false, lists and tables alone ({error})"
        ) from None
    try:
        quantizer = find_quantizer(given)
    except UsageError as error:
        raise UsageError(f"scheme.{name}.quantizer: {error}") from None
    return Scheme(
        name=name,
        weights=_CHANNEL_INT8,
        activations=_RANGE_UINT8 if quantizer.rounds_inputs(options) else None,
        summary=f"as {given} makes it",
        quantizer=given,
        options=options,
    )


def _tensor(table: Any, where: str, *, stored: bool) -> TensorScheme | None:
    if table is False:
        return None
    if not isinstance(table, dict) or "format" not in table:
        raise UsageError(f'{where} should be {{ format = "...", granularity = "..." }}')
    _known(table, _TENSOR_KEYS, where)
    fmt = _format(table["format"], where)
    tensor = TensorScheme(
        format=fmt.name,
        granularity=_granularity(table, fmt, where),
        block=table.get("block"),
        dynamic=table.get("dynamic", True),
        rule=table.get("rule"),
    )
    if not isinstance(tensor.dynamic, bool):
        raise UsageError(
            f"{where}.dynamic={tensor.dynamic!r}, but should be true or false"
        )
    if not tensor.dynamic and fmt.scale == "fp8_e8m0":
        raise UsageError(
            f"{where}.dynamic=false, but {fmt.name} has no scale to calibrate: every "
            "block's is found from the block"
        )
    if tensor.rule == RULE:
        check_ggml(tensor, where, stored=stored)
    else:
        _check_rule(fmt, tensor.rule, where)
    return tensor


def _kv_cache(table: Any, where: str) -> TensorScheme | None:
    """Keys and values: dynamic scales, written once with the token."""
    if table is False:
        return None
    if not isinstance(table, dict) or "format" not in table:
        raise UsageError(f'{where} should be {{ format = "...", granularity = "..." }}')
    _known(table, ("format", "granularity", "block"), where)
    fmt = _format(table["format"], where)
    allowed: tuple[Granularity, ...] = ("tensor", "head", "token")
    if fmt.kind == "block":
        allowed = ("block",)
    found: Granularity = table.get("granularity", allowed[0])
    if found not in allowed:
        raise UsageError(
            f"{where}.granularity={found!r}, but should be one of {allowed} for "
            f"{fmt.name}"
        )
    return TensorScheme(format=fmt.name, granularity=found, block=table.get("block"))


def _outputs(table: Any, where: str) -> TensorScheme | None:
    """Results: integers, one static scale."""
    if table is False:
        return None
    if not isinstance(table, dict) or "format" not in table:
        raise UsageError(
            f'{where}={table!r}, but should be {{ format = "int8" }}, or false'
        )
    _known(table, ("format", "granularity"), where)
    if table["format"] not in tuple(OUTPUT_FORMATS):
        raise UsageError(
            f"{where}.format={table['format']!r}, but should be one of "
            f"{tuple(OUTPUT_FORMATS)}"
        )
    if table.get("granularity", "tensor") != "tensor":
        raise UsageError(
            f"{where}.granularity={table['granularity']!r}, but should be 'tensor': "
            "the next operator reads all channels with one scale"
        )
    return TensorScheme(format=table["format"], granularity="tensor", dynamic=False)


def _format(name: Any, where: str) -> Format:
    if not isinstance(name, str):
        raise UsageError(f"{where}.format={name!r}, but should be a format's name")
    fmt = find_format(name)
    if fmt.kind == "scale":
        raise UsageError(f"{where}.format: {name} is a format of scales, not of values")
    return fmt


def _granularity(table: Mapping[str, Any], fmt: Format, where: str) -> Granularity:
    blocked = fmt.kind == "block"
    found: Granularity = table.get("granularity", "block" if blocked else "channel")
    allowed = ("block",) if blocked else ("tensor", "channel", "row", "block")
    if found not in allowed:
        raise UsageError(
            f"{where}.granularity={found!r}, but should be one of {allowed} for "
            f"{fmt.name}"
        )
    block = table.get("block")
    if found == "block" and not blocked and block is None:
        raise UsageError(f"{where}: granularity 'block' of {fmt.name} needs `block`")
    whole = isinstance(block, int) and not isinstance(block, bool) and block >= 1
    if block is not None and not whole:
        raise UsageError(f"{where}.block={block!r}, but should be a whole number >= 1")
    return found


def _check_rule(fmt: Format, rule: Any, where: str) -> None:
    """Numerics knows its rules: quantizing one number asks it."""
    try:
        quantize(np.ones((1, 1), np.float32), fmt.name, rule=rule)
    except NumericsError as error:
        raise UsageError(f"{where}: {error}") from None


def _known(table: Mapping[str, Any], keys: tuple[str, ...], where: str) -> None:
    for key in table:
        if key not in keys:
            close = difflib.get_close_matches(key, keys, n=1)
            hint = (
                f"did you mean {close[0]!r}?" if close else f"known: {', '.join(keys)}"
            )
            raise UsageError(f"unknown key {where}.{key}; {hint}")
