"""The rule "ggml": tensors quantized as llama.cpp does, block types of GGUF.

A scale rule of schemes beside those of `numerics.scales`: it also fixes how elements
are rounded and that scales are FP16, so it is another quantizer, not another scale. It
exists for the formats that a GGUF type holds; activations take it for INT8, which is
what llama.cpp makes of every input of a quantized weight.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import numpy as np

from harness.errors import UsageError
from harness.numerics import Quantized, find_format
from harness.numerics.layouts.gguf import GGUF_TYPES, Q4K
from harness.numerics.layouts.gguf_rules import quantize_gguf
from harness.schemes.types import TensorScheme

Array = np.ndarray[Any, np.dtype[Any]]

RULE: Final = "ggml"
#: Format of the elements -> GGUF type.
KINDS: Final[Mapping[str, str]] = {
    "int8": "Q8_0",
    "int4": "Q4_0",
    "mxfp4": "MXFP4",
    "nvfp4": "NVFP4",
}


def check_ggml(tensor: TensorScheme, where: str) -> None:
    """Refuse what no GGUF type holds.

    Raises:
        UsageError: another format, granularity or block.
    """
    kind = KINDS.get(tensor.format)
    if kind is None:
        raise UsageError(
            f"{where}: rule 'ggml' is for {', '.join(KINDS)}, not {tensor.format}"
        )
    group = GGUF_TYPES[kind].group
    block = tensor.block or find_format(tensor.format).block
    if tensor.granularity != "block" or block != group or not tensor.dynamic:
        raise UsageError(
            f"{where}: {kind} has blocks of {group} whose scales are found from them; "
            f"granularity={tensor.granularity!r}, block={tensor.block}, "
            f"dynamic={tensor.dynamic}"
        )


def quantize_ggml(x: Array, tensor: TensorScheme, *, nudge: float = 1.0) -> Quantized:
    """A tensor along its last axis, as ggml's reference code does it.

    Args:
        x: float32, rows of whole blocks; values that are not finite count as zero, and
            their whole block decodes to NaN, as it does in llama.cpp.
        tensor: checked by `check_ggml`.
        nudge: factor of every element after its block's scale was found, for codes
            that last-bit arithmetic decides.

    Raises:
        NumericsError: rows that are not whole blocks.
    """
    kind = KINDS[tensor.format]
    finite = np.isfinite(x)
    found = quantize_gguf(np.where(finite, x, np.float32(0)), kind, nudge=nudge)
    assert not isinstance(found, Q4K)  # sanity check: not among KINDS
    if not finite.all():
        group = GGUF_TYPES[kind].group
        bad = ~finite.reshape(*x.shape[:-1], -1, group).all(axis=-1)
        found.scales[bad] = np.nan
    return found
