"""Quantized layers: low-precision storage, native kernels or exact emulation."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812 - torch's own convention
from torch import Tensor as T  # noqa: N817 - as short as it is frequent

from harness.backends.protocol import QuantizedTensor
from harness.backends.torch_codec import (
    NATIVE,
    blocked_round,
    pack,
    round_element,
    scale_of,
    unpack,
)
from harness.errors import UnsupportedError
from harness.models.types import Operator
from harness.numerics import FORMATS, Quantized, encode, find_format
from harness.schemes.apply import OperatorPlan, quantize_weight, static_scale
from harness.schemes.outputs import output_grid
from harness.schemes.types import Scheme


class StoredWeight(torch.nn.Module):  # type: ignore[misc]
    """A weight as codes and scales.

    FP8 and INT8 are stored in torch's own types, BFP16 a code a byte; FP4 and INT4 two
    codes a byte, with the reduction axis last; E8M0 and E4M3 scales in torch's own
    types.
    """

    codes: T
    scales: T
    points: T | None

    def __init__(self, quantized: Quantized) -> None:
        super().__init__()
        self.format = quantized.format
        self.element = quantized.element
        self.block = quantized.block
        self.tensor_scale = float(np.float32(quantized.global_scale))
        codes = torch.from_numpy(np.ascontiguousarray(quantized.codes))
        scales = torch.from_numpy(np.array(quantized.scales, dtype=np.float32))
        points = None
        if quantized.zero_points is not None:
            points = torch.from_numpy(np.array(quantized.zero_points, np.int32))
        self.register_buffer("points", points)
        if self.block:
            # Reduction axis last: blocks are contiguous and nibbles are neighbours.
            # A checkpoint's zero points belong to matrices, where it is last already.
            codes, scales = codes.movedim(1, -1), scales.movedim(1, -1)
        self.length = codes.shape[-1]
        #: How a group's number comes to its elements: by an index, or repeated and cut.
        self.gathered = False
        if self.element in NATIVE:
            stored = codes.contiguous().view(NATIVE[self.element])
        else:
            stored = pack(codes.contiguous(), self.element)
        self.register_buffer("codes", stored)
        self.register_buffer("scales", self._store_scales(scales.contiguous()))
        self._decoded: T | None = None

    def _store_scales(self, scales: T) -> T:
        kind = FORMATS[self.format].scale
        if kind == "fp8_e8m0":
            return scales.to(torch.float8_e8m0fnu)
        if kind == "fp8_e4m3":
            codes = encode(scales.numpy(), "fp8_e4m3")
            return torch.from_numpy(codes).view(torch.float8_e4m3fn)
        return scales

    @property
    def stored_as(self) -> str:
        """Element type, as torch or the packing calls it."""
        if self.element in NATIVE:
            return str(self.codes.dtype).removeprefix("torch.")
        if FORMATS[self.element].bits == 8:
            return f"uint8, {self.element} codes"
        return f"uint8, two {self.element} codes a byte"

    def decode(self) -> T:
        """float32 weight in torch's layout; decoded once, then kept."""
        if self._decoded is None or self._decoded.device != self.codes.device:
            self._decoded = self._decode()
        return self._decoded

    def _decode(self) -> T:
        if self.element in NATIVE:
            values = self.codes.to(torch.float32)
        else:
            values = unpack(self.codes, self.element, self.length)
        scales = self.scales.to(torch.float32) * self.tensor_scale
        if self.points is not None:
            values = values - self._repeated(self.points.to(torch.float32), values)
        values = values * self._repeated(scales, values)
        return values.movedim(-1, 1).contiguous() if self.block else values

    def _repeated(self, groups: T, values: T) -> T:
        """One number a group as one an element."""
        if not self.block:
            return groups
        if isinstance(self.block, tuple):
            tall, wide = self.block
            rows = groups.repeat_interleave(tall, dim=0)[: values.shape[0]]
            return rows.repeat_interleave(wide, dim=1)[:, : self.length]
        if self.gathered:
            places = torch.arange(self.length, device=groups.device) // self.block
            return groups[..., places]
        return groups.repeat_interleave(self.block, dim=-1)[..., : self.length]

    def shown(self) -> QuantizedTensor:
        """Evidence: what is stored, decoded afresh from the stored bytes."""
        return QuantizedTensor(
            format=self.format,
            stored_as=self.stored_as,
            scales=self.scales.to(torch.float32).cpu().numpy(),
            decoded=self._decode().cpu().numpy(),
            nbytes=self.codes.nbytes + self.scales.nbytes,
        )


class QuantizedLayer(torch.nn.Module):  # type: ignore[misc]
    """A Linear or convolution under a scheme.

    Args:
        layer: the layer in full precision.
        operator: the same, as data.
        scheme: what it becomes.
        plan: which of weights and activations.
    """

    def __init__(
        self,
        layer: torch.nn.Module,
        operator: Operator,
        scheme: Scheme,
        plan: OperatorPlan,
    ) -> None:
        super().__init__()
        self.operator = operator
        self.activations = scheme.activations if plan.activations else None
        self.stored = StoredWeight(quantize_weight(operator, scheme))
        bias = getattr(layer, "bias", None)
        self.register_buffer("bias", None if bias is None else bias.detach().float())
        self._static = 1.0
        self._grid = output_grid(operator, scheme) if plan.outputs else None
        if self.activations is not None:
            self._check_activations()
            if not self.activations.dynamic:
                self._static = float(static_scale(operator, scheme))
        self.native = self._native_kernel()

    def _check_activations(self) -> None:
        assert self.activations is not None  # sanity check
        fmt = find_format(self.activations.format)
        rule = self.activations.rule
        blocked = fmt.kind == "block"
        known = (None, fmt.rule) if blocked else (None, "amax")
        # A static scale is the scheme's, whatever its rule.
        if (blocked or self.activations.dynamic) and rule not in known:
            raise UnsupportedError(
                f"activations with the scale rule {rule!r} on torch",
                operator=self.operator.name,
            )

    def _native_kernel(self) -> str:
        """The kernel that computes in low precision, or "" for emulation."""
        tensor = self.activations
        if tensor is None or self.operator.kind != "linear" or self.stored.block:
            return ""
        if self.stored.points is not None:
            return ""
        if tensor.format != self.stored.format or tensor.granularity == "block":
            return ""
        return {"fp8_e4m3": "torch._scaled_mm", "int8": "torch._int_mm"}.get(
            tensor.format, ""
        )

    def avoid_slow_kernels(self) -> None:
        """Emulate FP8 products, whose kernel on the CPU is made for many rows.

        It unpacks the whole weight at every call: 10 ms for a layer of 576 by 1,536
        and one row, where the product of the decoded weight takes 0.1 ms. Generation
        calls every layer once a token.
        """
        if self.native == "torch._scaled_mm":
            self.native = ""

    def forward(self, x: T) -> T:
        """The layer's output, in the dtype of the input."""
        wide = x.to(torch.float32)
        result = self._native(wide) if self.native else self._emulated(wide)
        if self._grid is not None:
            codes = torch.round(result / self._grid.scale)
            codes = codes.clamp(-self._grid.top - 1, self._grid.top)
            result = codes * self._grid.scale
        return result.to(x.dtype)

    def _emulated(self, x: T) -> T:
        weight = self.stored.decode()
        quantized = x if self.activations is None else self._quantize(x)
        operator = self.operator
        if operator.kind == "linear":
            return F.linear(quantized, weight, self.bias)
        function: Any = F.conv1d if weight.ndim == 3 else F.conv2d
        result: T = function(
            quantized,
            weight,
            self.bias,
            stride=operator.stride,
            padding=tuple(before for before, _ in operator.padding),
            dilation=operator.dilation,
            groups=operator.groups,
        )
        return result

    def _quantize(self, x: T) -> T:
        """The input rounded to its format, exactly as the scheme says."""
        tensor = self.activations
        assert tensor is not None  # sanity check
        fmt = find_format(tensor.format)
        if fmt.kind == "block":
            return blocked_round(
                x,
                size=tensor.block or fmt.block,
                axis=-1 if self.operator.kind == "linear" else 1,
                fmt=tensor.format,
                tensor_scale=self._static,
            )
        if tensor.granularity == "block":
            return self._quantize_runs(x, tensor.block or 0)
        scale = self._scale(x)
        return round_element(x / scale, tensor.format) * scale

    def _quantize_runs(self, x: T, size: int) -> T:
        """Dynamic scales of runs of `size` along the reduction; a tail is shorter."""
        tensor = self.activations
        assert tensor is not None  # sanity check
        axis = -1 if self.operator.kind == "linear" else 1
        moved = x.movedim(axis, -1)
        length = moved.shape[-1]
        padded = F.pad(moved, (0, -length % size)).unflatten(-1, (-1, size))
        scale = scale_of(padded.abs().amax(dim=-1, keepdim=True), tensor.format)
        decoded = round_element(padded / scale, tensor.format) * scale
        return decoded.flatten(-2)[..., :length].movedim(-1, axis)

    def _scale(self, x: T) -> T:
        tensor = self.activations
        assert tensor is not None  # sanity check
        if not tensor.dynamic:
            return torch.tensor(self._static, device=x.device)
        if tensor.granularity == "tensor":
            amax = x.abs().amax()
        elif self.operator.kind == "linear":
            amax = x.abs().amax(dim=-1, keepdim=True)
        else:
            amax = x.abs().amax(dim=tuple(range(1, x.ndim)), keepdim=True)
        return scale_of(amax, tensor.format)

    def _native(self, x: T) -> T:
        # Rows one after another: what comes from a convolution may be transposed, and
        # CUDA's kernels and inductor refuse that.
        rows = x.reshape(-1, x.shape[-1]).contiguous()
        count, out = rows.shape[0], self.stored.codes.shape[0]
        # The kernel asks for strides of 1 even along an axis of length 1.
        scale = (
            self._scale(rows).expand(count, 1).clone().as_strided((count, 1), (1, 1))
        )
        columns = self.stored.scales.reshape(1, -1).expand(1, out).contiguous()
        if self.native == "torch._int_mm":
            codes = torch.round(rows / scale).clamp(-128, 127).to(torch.int8)
            product = torch._int_mm(codes, self.stored.codes.t()).to(torch.float32)  # noqa: SLF001
            result = product * scale * columns
        else:
            codes = (rows / scale).clamp(-448.0, 448.0).to(torch.float8_e4m3fn)
            result = torch._scaled_mm(  # noqa: SLF001 - torch's public name for it is newer
                codes,
                self.stored.codes.t(),
                scale_a=scale,
                scale_b=columns,
                out_dtype=_product_dtype(x),
            ).to(torch.float32)
        if self.bias is not None:
            result = result + self.bias
        return result.reshape(*x.shape[:-1], -1)


def _product_dtype(x: T) -> torch.dtype:
    """CUDA's row-wise FP8 kernels give bfloat16 at best; the CPU's give float32."""
    return torch.bfloat16 if x.is_cuda else torch.float32
