"""Reading and rebuilding quantized tensors, as the planters need it."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np

from harness.defects.types import Site, Unfit
from harness.models.types import Operator
from harness.numerics import Quantized, find_format, quantize
from harness.schemes.apply import quantize_weight
from harness.schemes.types import TensorScheme

Array = np.ndarray[Any, np.dtype[Any]]


def weight_scheme(site: Site) -> TensorScheme:
    """How the weight is stored.

    Raises:
        Unfit: the scheme leaves weights alone.
    """
    if site.scheme.weights is None:
        raise Unfit("weights are not quantized")
    return site.scheme.weights


def input_scheme(site: Site) -> TensorScheme:
    """How the input is quantized.

    Raises:
        Unfit: the scheme leaves activations alone.
    """
    if site.scheme.activations is None:
        raise Unfit("activations are not quantized")
    return site.scheme.activations


def with_codes(quantized: Quantized, codes: Array) -> Quantized:
    """The same scales over other codes."""
    return dataclasses.replace(quantized, codes=codes.astype(quantized.codes.dtype))


def with_scales(quantized: Quantized, scales: Array) -> Quantized:
    """The same codes under other scales."""
    found = np.broadcast_to(np.asarray(scales, np.float32), quantized.scales.shape)
    return dataclasses.replace(quantized, scales=found.copy())


def requantized(
    quantized: Quantized,
    weight: Array,
    scales: Array | None = None,
    *,
    global_scale: float | None = None,
    **options: Any,
) -> Quantized:
    """Other codes for a weight, under given scales (the tensor's own if None).

    Raises:
        Unfit: a scale would not be positive and finite.
    """
    chosen = quantized.scales if scales is None else np.asarray(scales, np.float32)
    if not (np.isfinite(chosen) & (chosen > 0)).all():
        raise Unfit("the scales would not be positive and finite")
    tensor = quantized.global_scale if global_scale is None else global_scale
    blocked = find_format(quantized.format).kind == "block"
    return quantize(
        np.asarray(weight, np.float32),
        quantized.format,
        axis=quantized.axis,
        block=quantized.block or None,
        scale=np.broadcast_to(chosen, quantized.scales.shape),
        global_scale=tensor if blocked and tensor != 1.0 else None,
        **options,
    )


def like(operator: Operator, weight: Array) -> Operator:
    """The operator with another weight of the same shape."""
    return dataclasses.replace(operator, weight=weight)


def quantized_like(site: Site, weight: Array) -> Quantized:
    """Another weight of the operator's shape, as the scheme quantizes it."""
    return quantize_weight(like(site.operator, weight), site.scheme)


def grouped_along_k(quantized: Quantized) -> bool:
    """Whether there are several scales along the reduction axis."""
    return bool(quantized.scales.ndim > 1 and quantized.scales.shape[1] > 1)


def per_channel(quantized: Quantized) -> bool:
    """Whether there are several scales along the output channels."""
    return bool(quantized.scales.ndim > 0 and quantized.scales.shape[0] > 1)
