"""torchao's configurations, and the checkpoint of what `quantize_` made by them.

The layers of a module become torchao's own tensors; their codes and scales are written
in the layout of compressed-tensors, which is read here without torchao. What inputs are
rounded to, with which scale rule, is not stored with them: it is in the table below, as
torchao 0.18 does it.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from harness.errors import ModelError, UnsupportedError, UsageError
from harness.files import write_json
from harness.numerics import Quantized, decode, find_format
from harness.numerics.grid import make_grid
from harness.numerics.layouts import to_compressed_tensors
from harness.numerics.packing import unpack
from harness.numerics.swizzle import unswizzle_scales
from harness.schemes.types import Scheme, TensorScheme

if TYPE_CHECKING:
    import torch

Array = np.ndarray[Any, np.dtype[Any]]
PREFIX: Final = "torchao:"


@dataclass(frozen=True)
class Config:
    """One configuration."""

    #: What inputs become; None: they are left alone.
    activations: TensorScheme | None = None
    #: Type that the module must have: torchao's MX tensors multiply in bfloat16 alone.
    dtype: str = "float32"
    #: The module that defines it.
    module: str = "torchao.quantization"


_ROW_INT8: Final = TensorScheme(format="int8", granularity="row", rule="full")
_ROW_FP8: Final = TensorScheme(format="fp8_e4m3", granularity="row")
_MX: Final = TensorScheme(format="mxfp8_e4m3", granularity="block", rule="rceil")
#: Class of `torchao.quantization` or its prototypes -> what it does to inputs.
CONFIGS: Final[Mapping[str, Config]] = {
    "Int8WeightOnlyConfig": Config(),
    "Int8DynamicActivationInt8WeightConfig": Config(_ROW_INT8),
    "IntxWeightOnlyConfig": Config(),
    "Float8WeightOnlyConfig": Config(),
    "Float8DynamicActivationFloat8WeightConfig": Config(_ROW_FP8),
    "MXDynamicActivationMXWeightConfig": Config(
        _MX, "bfloat16", "torchao.prototype.mx_formats"
    ),
    "NVFP4WeightOnlyConfig": Config(module="torchao.prototype.mx_formats"),
}
#: MX formats by the element type that a configuration names.
_ELEMENTS: Final = {
    "float8_e4m3fn": "mxfp8_e4m3",
    "float8_e5m2": "mxfp8_e5m2",
    "float4_e2m1fn_x2": "mxfp4",
}


def is_torchao(scheme: Scheme) -> bool:
    """Whether torchao quantizes the model under this scheme."""
    return scheme.quantizer.startswith(PREFIX)


def config_class(name: str) -> Any:
    """Class of torchao of that name."""
    import importlib

    entry = CONFIGS[name.removeprefix(PREFIX)]
    return getattr(importlib.import_module(entry.module), name.removeprefix(PREFIX))


def dtype_of(scheme: Scheme) -> str:
    """Type that the whole module must have, as torch calls it."""
    return CONFIGS[scheme.quantizer.removeprefix(PREFIX)].dtype


def with_activations(scheme: Scheme) -> Scheme:
    """The scheme of a checkpoint with what its configuration does to inputs."""
    found = CONFIGS[scheme.quantizer.removeprefix(PREFIX)].activations
    if found is not None and found.granularity == "block":
        asked = scheme.options.get("activation_dtype", "float8_e4m3fn")
        rule = str(scheme.options.get("scaling_mode", "rceil")).lower()
        found = dataclasses.replace(found, format=_ELEMENTS[asked], rule=rule)
    return dataclasses.replace(scheme, activations=found)


def quantize_module(
    module: torch.nn.Module, operators: Collection[str], scheme: Scheme
) -> None:
    """Let torchao quantize the linear layers among the operators, in place.

    On a processor the configuration of dynamic FP8 refuses to be used, though its
    tensor computes there: it is made directly then.

    Raises:
        UsageError: an option's value.
    """
    import torch
    from torchao.quantization import quantize_

    name = scheme.quantizer.removeprefix(PREFIX)
    options = _values(scheme.options)

    def chosen(layer: torch.nn.Module, path: str) -> bool:
        return isinstance(layer, torch.nn.Linear) and path in operators

    if name.startswith("Float8Dynamic") and not torch.cuda.is_available():
        for path, layer in module.named_modules():
            if chosen(layer, path):
                layer.weight = _dynamic_float8(layer.weight, options)
        return
    quantize_(module, config_class(name)(**options), filter_fn=chosen)


def _dynamic_float8(weight: torch.Tensor, options: Mapping[str, Any]) -> Any:
    """What `Float8DynamicActivationFloat8WeightConfig` makes of a weight, by rows."""
    import torch
    from torchao.float8.inference import Float8MMConfig
    from torchao.quantization.granularity import PerRow
    from torchao.quantization.quantize_.common.kernel_preference import (
        KernelPreference,
    )
    from torchao.quantization.quantize_.workflows.float8 import float8_tensor as f8

    if set(options) - {"granularity"}:
        raise UnsupportedError(
            f"options {sorted(options)} of dynamic FP8 need a GPU; `granularity` alone "
            "is taken on a processor"
        )
    how = {
        "float8_dtype": torch.float8_e4m3fn,
        "granularity": options.get("granularity", PerRow()),
        "mm_config": Float8MMConfig(use_fast_accum=False),
        "kernel_preference": KernelPreference.TORCH,
    }
    inputs = f8.QuantizeTensorToFloat8Kwargs(**how)
    made = f8.Float8Tensor.from_hp(weight.detach(), **how, act_quant_kwargs=inputs)
    return torch.nn.Parameter(made, requires_grad=False)


def _values(options: Mapping[str, Any]) -> dict[str, Any]:
    """Types, enumerations and granularities by their names.

    Raises:
        UsageError: a name that there is not.
    """
    import torch
    from torchao.prototype.mx_formats import ScaleCalculationMode
    from torchao.quantization.granularity import PerAxis, PerGroup, PerRow, PerTensor
    from torchao.quantization.quantize_.common.kernel_preference import (
        KernelPreference,
    )

    known: dict[str, Callable[[Any], Any]] = {
        "kernel_preference": lambda value: KernelPreference[value],
        "scaling_mode": lambda value: ScaleCalculationMode[value],
    }
    spread = {"row": PerRow(), "tensor": PerTensor(), "channel": PerAxis(0)}
    known["granularity"] = lambda v: PerGroup(v) if isinstance(v, int) else spread[v]
    found = {}
    for key, value in options.items():
        try:
            if key in known:
                found[key] = known[key](value)
            elif key.endswith("_dtype"):
                found[key] = getattr(torch, value)
            else:
                found[key] = value
        except (KeyError, AttributeError, TypeError):
            raise UsageError(
                f"options.{key}={value!r} is no name that torchao knows"
            ) from None
    return found


def stored_weight_of(weight: Any, name: str) -> Quantized:
    """Codes and scales of one of torchao's tensors.

    Args:
        weight: a layer's.
        name: the layer's, for messages.

    Raises:
        ModelError: it was not quantized, or is of a kind that is not read.
    """
    kind = type(weight).__name__
    if kind not in _READ:
        raise ModelError(f"{name}: torchao made it a {kind}, which is not read here")
    return _READ[kind](weight)


def _int8(weight: Any) -> Quantized:
    codes = weight.qdata.cpu().numpy().view(np.uint8)
    return _made("int8", codes, weight.scale.cpu().float().numpy(), 0)


def _intx(weight: Any) -> Quantized:
    values = weight.qdata.cpu().numpy()
    scales = weight.scale.cpu().float().numpy()
    if weight.zero_point is not None and bool(weight.zero_point.any()):
        raise ModelError("integers with zero points of torchao are not read here")
    four = str(weight.target_dtype) == "torch.int4"
    size = int(weight.block_size[-1]) if scales.shape[-1] > 1 else 0
    codes = values.view(np.uint8) & np.uint8(15 if four else 255)
    return _made("int4" if four else "int8", codes, scales, size)


def _float8(weight: Any) -> Quantized:
    import torch

    codes = weight.qdata.cpu().view(torch.uint8).numpy()
    return _made("fp8_e4m3", codes, weight.scale.cpu().float().numpy(), 0)


def _block_scales(weight: Any, shape: tuple[int, ...], size: int) -> Array:
    """uint8 codes of scales, one row a row; in the order of GPUs they come in tiles."""
    import torch

    codes: Array = weight.scale.cpu().contiguous().view(torch.uint8).numpy()
    if not weight.is_swizzled_scales:
        return codes
    found: Array = unswizzle_scales(codes.reshape(-1), shape[0], shape[1] // size)
    return found


def _mx(weight: Any) -> Quantized:
    import torch

    element = str(weight.elem_dtype).removeprefix("torch.")
    if element not in _ELEMENTS:
        raise ModelError(f"MX of {element} is not read here")
    codes = weight.qdata.cpu().view(torch.uint8).numpy()
    name = _ELEMENTS[element]
    if name == "mxfp4":
        codes = unpack(codes, name, codes.shape[-1] * 2)
    scales = decode(_block_scales(weight, codes.shape, 32), "fp8_e8m0")
    return _made(name, codes, scales, 32)


def _nvfp4(weight: Any) -> Quantized:
    import torch

    codes = weight.qdata.cpu().view(torch.uint8).numpy()
    codes = unpack(codes, "nvfp4", codes.shape[-1] * 2)
    scales = decode(_block_scales(weight, codes.shape, 16), "fp8_e4m3")
    tensor = weight.per_tensor_scale
    one = 1.0 if tensor is None else float(tensor.float())
    return _made("nvfp4", codes, scales, 16, one)


_READ: Final[Mapping[str, Callable[[Any], Quantized]]] = {
    "Int8Tensor": _int8,
    "IntxUnpackedToInt8Tensor": _intx,
    "Float8Tensor": _float8,
    "MXTensor": _mx,
    "NVFP4Tensor": _nvfp4,
}


def _made(
    name: str, codes: Array, scales: Array, block: int, tensor: float = 1.0
) -> Quantized:
    rows, columns = codes.shape
    axis: int | tuple[int, ...] = 1
    if not block and scales.size == 1 and rows > 1:
        axis = (0, 1)
    shape = make_grid((rows, columns), axis, block).scales_shape
    return Quantized(
        codes=np.ascontiguousarray(codes),
        scales=np.ascontiguousarray(scales.reshape(shape)),
        global_scale=tensor,
        format=name,
        axis=axis,
        block=block,
        shape=(rows, columns),
        rule="stored",
    )


def write_checkpoint(folder: Path, layers: Mapping[str, Quantized]) -> None:
    """Write layers in the layout of compressed-tensors.

    Raises:
        ModelError: there is none, or they are of several formats.
    """
    import torch
    from safetensors.torch import save_file

    kinds = {(layer.format, layer.block) for layer in layers.values()}
    if len(kinds) != 1:
        raise ModelError(f"torchao made {len(kinds)} kinds of weights, not one")
    tensors = {}
    for name, layer in layers.items():
        for part, array in to_compressed_tensors(layer).items():
            held = np.ascontiguousarray(array)
            if held.dtype.name.startswith("float8"):
                bits = torch.from_numpy(held.view(np.uint8))
                tensors[f"{name}.{part}"] = bits.view(torch.float8_e4m3fn)
            else:
                tensors[f"{name}.{part}"] = torch.from_numpy(held)
    save_file(tensors, folder / "model.safetensors")
    first = next(iter(layers.values()))
    group = {"format": _LAYOUTS[first.format], "weights": _described(first)}
    write_json(
        folder / "config.json",
        {
            "quantization_config": {
                "quant_method": "compressed-tensors",
                "format": group["format"],
                "config_groups": {"group_0": group | {"targets": ["Linear"]}},
            }
        },
    )


#: Format -> what compressed-tensors calls its layout.
_LAYOUTS: Final = {
    "int8": "int-quantized",
    "int4": "pack-quantized",
    "fp8_e4m3": "float-quantized",
    "mxfp8_e4m3": "mxfp8-quantized",
    "mxfp4": "mxfp4-pack-quantized",
    "nvfp4": "nvfp4-pack-quantized",
}


def _described(layer: Quantized) -> dict[str, Any]:
    fmt = find_format(layer.format)
    bits = find_format(fmt.element).bits if fmt.element else fmt.bits
    kind = "int" if fmt.kind == "int" else "float"
    spread = "group" if layer.block else "tensor" if layer.scales.size == 1 else ""
    described = {"num_bits": bits, "type": kind, "symmetric": True, "dynamic": False}
    described["strategy"] = spread or "channel"
    if layer.block:
        described["group_size"] = layer.block
    if fmt.scale == "fp8_e8m0":
        described["scale_dtype"] = "torch.uint8"
    return described
