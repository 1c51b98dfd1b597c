# ruff: noqa: SLF001 - the steps that torchao has only as private functions
"""What the other libraries call quantize and dequantize, format by format.

Each peer is a function from a torch tensor to its two steps: the first makes the
quantized form, the second takes that back to values. A peer that has no such form but
only a fake quantization (Quark) has one step. Scales are computed in the step, as ours
are. What a peer does not do, or not on a CPU, is not in its rows.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import ml_dtypes
import numpy as np
import torch

from harness.numerics import decode, encode, quantize
from harness.numerics.arrays import as_numpy

Step = Callable[[], Any]
#: quantize, dequantize of what the first returned; None: the first does both.
Steps = tuple[Step, Callable[[Any], Any] | None]


@dataclass(frozen=True)
class Row:
    """A format with a granularity, as ours and as the peers name it."""

    name: str
    format: str
    #: Options of `quantize`; None: `encode` and `decode`, without scales.
    options: dict[str, Any] | None
    peers: dict[str, Callable[[Any], Steps]]
    #: Values share a scale in blocks: the aim is three times the fastest peer.
    blocks: bool = True


def ours(x: Any, row: Row) -> Steps:
    if row.options is None:
        return lambda: encode(x, row.format), lambda q: decode(q, row.format)
    options = row.options
    return lambda: quantize(x, row.format, **options), lambda q: q.dequantize()


def ml(dtype: Any) -> Callable[[Any], Steps]:
    def made(x: Any) -> Steps:
        array, _ = as_numpy(x)
        return lambda: array.astype(dtype), lambda q: q.astype(np.float32)

    return made


def cast(dtype: Any) -> Callable[[Any], Steps]:
    return lambda x: (lambda: x.to(dtype), lambda q: q.to(torch.float32))


def torchao_mx(element: Any, mode: str = "FLOOR") -> Callable[[Any], Steps]:
    def made(x: Any) -> Steps:
        from torchao.prototype.mx_formats.mx_tensor import (
            MXTensor,
            ScaleCalculationMode,
        )

        rule = ScaleCalculationMode[mode]
        return (
            lambda: MXTensor.to_mx(x, element, 32, scaling_mode=rule),
            lambda q: q.dequantize(torch.float32),
        )

    return made


def torchao_nvfp4(x: Any) -> Steps:
    from torchao.prototype.mx_formats.nvfp4_tensor import (
        NVFP4Tensor,
        per_tensor_amax_to_scale,
    )

    def quantized() -> Any:
        scale = per_tensor_amax_to_scale(x.abs().max())
        return NVFP4Tensor.to_nvfp4(x, per_tensor_scale=scale, is_swizzled_scales=False)

    return quantized, lambda q: q.dequantize(torch.float32)


def torchao_affine(
    block: tuple[int, int], low: int, high: int, *, symmetric: bool = True
) -> Callable[[Any], Steps]:
    def made(x: Any) -> Steps:
        from torchao.quantization import quant_primitives as primitives

        kind = torch.int8 if low < 0 else torch.uint8
        mapping = (
            primitives.MappingType.SYMMETRIC
            if symmetric
            else primitives.MappingType.ASYMMETRIC
        )
        size = tuple(n if b == 0 else b for b, n in zip(block, x.shape, strict=True))

        def quantized() -> Any:
            scale, point = primitives.choose_qparams_affine(
                x, mapping, size, kind, low, high, scale_dtype=torch.float32
            )
            codes = primitives.quantize_affine(x, size, scale, point, kind, low, high)
            return codes, scale, point

        return quantized, lambda q: primitives.dequantize_affine(
            q[0], size, q[1], q[2], kind, low, high
        )

    return made


def torchao_float8(block: tuple[int, int]) -> Callable[[Any], Steps]:
    def made(x: Any) -> Steps:
        from torchao.quantization import quant_primitives as primitives

        def quantized() -> Any:
            scale = primitives._choose_scale_float8(x, list(block))
            return primitives._quantize_affine_float8(x, scale), scale

        return quantized, lambda q: primitives._dequantize_affine_float8(*q)

    return made


def modelopt(name: str, kind: str, **options: Any) -> Callable[[Any], Steps]:
    """A ModelOpt QTensor: the module, the class, and what its methods take."""

    def made(x: Any) -> Steps:
        import importlib

        module = f"modelopt.torch.quantization.qtensor.{name}_tensor"
        tensor = getattr(importlib.import_module(module), kind)

        def back(q: Any) -> Any:
            held, scale, *rest = q if len(q) > 1 else (q[0], None)
            more = {"double_scale": rest[0]} if rest else {}
            size = options.get("block_size") or options.get("block_sizes")
            sizes = {-1: size} if isinstance(size, int) else size
            return held.dequantize(
                dtype=torch.float32, scale=scale, block_sizes=sizes, **more
            )

        return lambda: tensor.quantize(x, **options), back

    return made


def compressed(**settings: Any) -> Callable[[Any], Steps]:
    """compressed-tensors: dynamic scales by its own helpers, then its quantize."""

    def made(x: Any) -> Steps:
        from compressed_tensors.quantization import QuantizationArgs
        from compressed_tensors.quantization.lifecycle import forward
        from compressed_tensors.quantization.utils import helpers

        given = QuantizationArgs(**settings)
        strategy = given.strategy
        wide = given.group_size or 0

        def reduced() -> tuple[Any, Any]:
            if strategy == "channel":
                return torch.aminmax(x, dim=-1, keepdim=True)
            if strategy == "block":
                tall, across = given.block_structure
                boxes = x.unflatten(-1, (-1, across)).unflatten(0, (-1, tall))
                return boxes.amin((1, 3)), boxes.amax((1, 3))
            return torch.aminmax(x.unflatten(-1, (-1, wide)), dim=-1)

        def quantized() -> Any:
            whole = None
            if strategy == "tensor_group":
                whole = helpers.generate_gparam(*torch.aminmax(x))
            scale, point = helpers.calculate_qparams(
                *reduced(), given, global_scale=whole
            )
            dtype = given.pytorch_dtype() if given.num_bits == 8 else torch.int8
            if given.num_bits == 4 and given.type == "float":
                dtype = None
            codes = forward.quantize(
                x, scale, point, given, dtype=dtype, global_scale=whole
            )
            return codes, scale, point, whole

        return quantized, lambda q: forward.dequantize(
            q[0], q[1], q[2], given, dtype=torch.float32, global_scale=q[3]
        )

    return made


def quark(spec: str, **settings: Any) -> Callable[[Any], Steps]:
    """Quark's dynamic fake quantization: values in, values out."""

    def made(x: Any) -> Steps:
        from quark.torch import quantization as q
        from quark.torch.quantization.tensor_quantize import FakeQuantizeBase

        wanted = getattr(q, spec)(is_dynamic=True, **settings).to_quantization_spec()
        fake = FakeQuantizeBase.get_fake_quantize(wanted)

        def both() -> Any:
            with torch.no_grad():
                return fake(x)

        return both, None

    return made


_MX = {"ch_axis": -1, "scale_calculation_mode": "floor"}
_E4M3 = {"num_bits": 8, "type": "float", "symmetric": True}
_GROUP = {"strategy": "group", "symmetric": True}
_PLAIN: list[tuple[str, Any, Any]] = [
    ("fp8_e4m3", ml_dtypes.float8_e4m3fn, torch.float8_e4m3fn),
    ("fp8_e5m2", ml_dtypes.float8_e5m2, torch.float8_e5m2),
    ("fp8_e4m3fnuz", ml_dtypes.float8_e4m3fnuz, torch.float8_e4m3fnuz),
    ("fp6_e2m3", ml_dtypes.float6_e2m3fn, None),
    ("fp6_e3m2", ml_dtypes.float6_e3m2fn, None),
    ("fp4_e2m1", ml_dtypes.float4_e2m1fn, None),
]


def _plain(name: str, theirs: Any, torch_dtype: Any) -> Row:
    peers = {"ml_dtypes": ml(theirs)}
    if torch_dtype is not None:
        peers["torch"] = cast(torch_dtype)
    return Row(f"{name} cast", name, None, peers, blocks=False)


def _int4(block: int) -> Row:
    return Row(
        f"int4, groups of {block}",
        "int4",
        {"block": block},
        {
            "torchao": torchao_affine((1, block), -8, 7),
            "modelopt": modelopt("int4", "INT4QTensor", block_size=block),
            "compressed-tensors": compressed(num_bits=4, group_size=block, **_GROUP),
        },
    )


ROWS = [
    *(_plain(*each) for each in _PLAIN),
    Row(
        "mxfp8_e4m3",
        "mxfp8_e4m3",
        {},
        {
            "torchao": torchao_mx(torch.float8_e4m3fn),
            "modelopt": modelopt("mxfp8", "MXFP8QTensor"),
            "quark": quark("OCP_MXFP8E4M3Spec", **_MX),
        },
    ),
    Row(
        "mxfp6_e2m3",
        "mxfp6_e2m3",
        {},
        {
            "torchao": torchao_mx("fp6_e2m3"),
            "quark": quark("OCP_MXFP6E2M3Spec", **_MX),
        },
    ),
    Row(
        "mxfp4",
        "mxfp4",
        {},
        {
            "torchao": torchao_mx(torch.float4_e2m1fn_x2),
            "modelopt": modelopt("mxfp4", "MXFP4QTensor", block_size=32),
            "quark": quark("OCP_MXFP4Spec", **_MX),
        },
    ),
    Row(
        "nvfp4",
        "nvfp4",
        {},
        {
            "torchao": torchao_nvfp4,
            "modelopt": modelopt("nvfp4", "NVFP4QTensor", block_size=16),
            "compressed-tensors": compressed(
                num_bits=4,
                type="float",
                strategy="tensor_group",
                group_size=16,
                symmetric=True,
                scale_dtype=torch.float8_e4m3fn,
                zp_dtype=torch.float8_e4m3fn,
            ),
        },
    ),
    Row(
        "fp8_e4m3, blocks of 1x128",
        "fp8_e4m3",
        {"block": 128},
        {
            "torchao": torchao_float8((1, 128)),
            "modelopt": modelopt("fp8", "FP8QTensor", block_sizes={-1: 128}),
            "compressed-tensors": compressed(strategy="group", group_size=128, **_E4M3),
        },
    ),
    Row(
        "fp8_e4m3, blocks of 128x128",
        "fp8_e4m3",
        {"block": (128, 128)},
        {
            "torchao": torchao_float8((128, 128)),
            "modelopt": modelopt("fp8", "FP8QTensor", block_sizes={-1: 128, -2: 128}),
            "compressed-tensors": compressed(
                strategy="block", block_structure=[128, 128], **_E4M3
            ),
        },
    ),
    Row(
        "int8, a scale a row",
        "int8",
        {},
        {
            "torchao": torchao_affine((1, 0), -127, 127),
            "modelopt": modelopt("int8", "INT8QTensor", axis=0),
            "compressed-tensors": compressed(
                num_bits=8, strategy="channel", symmetric=True
            ),
        },
        blocks=False,
    ),
    _int4(32),
    _int4(128),
    Row(
        "uint4 with zero points, groups of 128",
        "uint4",
        {"block": 128, "symmetric": False},
        {
            "torchao": torchao_affine((1, 128), 0, 15, symmetric=False),
            "compressed-tensors": compressed(
                num_bits=4, strategy="group", group_size=128, symmetric=False
            ),
        },
    ),
    Row(
        "nf4, groups of 64",
        "nf4",
        {"block": 64},
        {},
    ),
]
