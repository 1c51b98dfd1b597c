"""Keys and values in few bits: what a scheme's `kv_cache` says, in torch."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

import numpy as np
import torch
from torch import Tensor as T  # noqa: N817 - as short as it is frequent

from harness.backends.torch_codec import blocked_round, round_element, scale_of
from harness.errors import UnsupportedError
from harness.numerics import find_format, quantize
from harness.schemes.types import TensorScheme

#: Axes of keys or values (batch, heads, tokens, width) that share a scale.
_SHARED: Final = {"head": (3,), "token": (1, 3)}
#: Largest magnitude of FP8 E4M3 in a cache whose scale is 1.
_UNIT_SCALE: Final = frozenset({"fp8_e4m3", "fp8_e5m2"})


def cache_rounding(tensor: TensorScheme) -> Callable[[T], T]:
    """What keys and values become when they are stored and read back.

    `tensor`: one scale of 1 for FP8, as engines use that were not calibrated;
    values beyond the format saturate. `head`: a scale for each token and head;
    `token`: one for each token over its heads; `block`: the format's own blocks along
    a head's width. No scale depends on tokens written later.

    Raises:
        UnsupportedError: a format or granularity that is not computed here.
    """
    fmt = find_format(tensor.format)
    if fmt.kind == "block":
        return lambda x: _wide(
            x,
            lambda y: blocked_round(
                y,
                size=tensor.block or fmt.block,
                axis=-1,
                fmt=tensor.format,
                tensor_scale=1.0,
            ),
        )
    if tensor.granularity == "tensor":
        if tensor.format not in _UNIT_SCALE:
            raise UnsupportedError(
                f"a KV cache of {tensor.format} with one scale needs calibration: "
                'give it granularity "head" or "token"'
            )
        return lambda x: _wide(x, lambda y: round_element(y, tensor.format))
    if tensor.granularity not in _SHARED:
        raise UnsupportedError(f"a KV cache with a scale a {tensor.granularity}")
    axes = _SHARED[tensor.granularity]

    def scaled(y: T) -> T:
        scale = scale_of(y.abs().amax(dim=axes, keepdim=True), tensor.format)
        return round_element(y / scale, tensor.format) * scale

    return lambda x: _wide(x, scaled)


def _wide(x: T, function: Callable[[T], T]) -> T:
    return function(x.to(torch.float32)).to(x.dtype)


def exact_rounding(x: Any, tensor: TensorScheme) -> Any:
    """The same by `numerics`: what `cache_rounding` is held against.

    Args:
        x: float32 array (batch, heads, tokens, width).
        tensor: as the scheme says.
    """
    fmt = find_format(tensor.format)
    if fmt.kind == "block":
        found = quantize(x, tensor.format, axis=3, block=tensor.block, global_scale=1.0)
    elif tensor.granularity == "tensor":
        found = quantize(x, tensor.format, axis=None, scale=np.float32(1))
    else:
        found = quantize(x, tensor.format, axis=_SHARED[tensor.granularity])
    return found.dequantize()


def holds_what_it_should(
    rounding: Callable[[T], T] | None, tensor: TensorScheme
) -> bool:
    """Whether a cache's rounding is the exact one, on values of many magnitudes."""
    if rounding is None:
        return False
    generator = np.random.default_rng(20261123)
    x = generator.normal(size=(2, 3, 5, 64)).astype(np.float32)
    x *= np.exp2(generator.integers(-6, 9, size=(2, 3, 5, 1))).astype(np.float32)
    exact = exact_rounding(x, tensor)
    found = rounding(torch.from_numpy(x)).numpy()
    # Two right quotients may round a tie's neighbour differently; no more than that.
    return bool(np.mean(found != exact) < 1e-3 and np.isfinite(found).all())
