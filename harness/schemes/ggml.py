"""The rule "ggml": tensors quantized as llama.cpp does, block types of GGUF.

A scale rule of schemes beside those of `numerics.scales`: it also fixes how elements
are rounded and how scales are stored, so it is another quantizer, not another scale. It
exists for the formats that a type of ggml holds; activations take it for INT8, which is
what llama.cpp makes of every input of a quantized weight: Q8_0 in blocks of 32, Q8_K in
blocks of 256 where the weight is in super-blocks of as many.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import numpy as np

from harness.errors import UsageError
from harness.numerics import Quantized, find_format
from harness.numerics.layouts.gguf import GGUF_TYPES, INPUT_TYPES
from harness.numerics.layouts.gguf_rules import quantize_gguf
from harness.schemes.types import TensorScheme

Array = np.ndarray[Any, np.dtype[Any]]

RULE: Final = "ggml"
#: Format of the elements and how many share a scale -> type of ggml.
KINDS: Final[Mapping[tuple[str, int], str]] = {
    (entry.format, entry.group): kind
    for kind, entry in {**GGUF_TYPES, **INPUT_TYPES}.items()
}


def ggml_kind(tensor: TensorScheme) -> str | None:
    """The type of ggml with a tensor's elements in its blocks; None: there is none."""
    return KINDS.get((tensor.format, tensor.block or find_format(tensor.format).block))


def check_ggml(tensor: TensorScheme, where: str, *, stored: bool = False) -> None:
    """Refuse what no type of ggml holds.

    Args:
        tensor: as the suite says it.
        where: its key, for the message.
        stored: whether it is in a file, as weights are.

    Raises:
        UsageError: another format, granularity or block.
    """
    blocks: dict[str, list[str]] = {}
    for (fmt, group), name in KINDS.items():
        if not (stored and name in INPUT_TYPES):
            blocks.setdefault(fmt, []).append(f"{group} ({name})")
    if tensor.format not in blocks:
        raise UsageError(
            f"{where}: rule 'ggml' is for {', '.join(blocks)}, not {tensor.format}"
        )
    kind = ggml_kind(tensor)
    known = kind is not None and not (stored and kind in INPUT_TYPES)
    if not known or tensor.granularity != "block" or not tensor.dynamic:
        raise UsageError(
            f"{where}: {tensor.format} of ggml has blocks of "
            f"{' or '.join(blocks[tensor.format])} whose scales are found from them; "
            f"granularity={tensor.granularity!r}, block={tensor.block}, "
            f"dynamic={tensor.dynamic}"
        )


def quantize_ggml(x: Array, tensor: TensorScheme, *, nudge: float = 1.0) -> Quantized:
    """A tensor along its last axis, as ggml's reference code does it.

    Args:
        x: float32, rows of whole blocks; values that are not finite count as zero, and
            all that share a scale with one decode to NaN. llama.cpp's kernels take NaN
            for zero and leave it at that: docs/deviations.md.
        tensor: checked by `check_ggml`. Where a mistake is imitated that makes blocks
            of another size, the type with the next smaller ones stands for it.
        nudge: factor of every element after its block's scale was found, for codes
            that last-bit arithmetic decides.

    Raises:
        NumericsError: rows that are not whole blocks.
    """
    kind = ggml_kind(tensor) or _nearest_kind(tensor)
    finite = np.isfinite(x)
    found = quantize_gguf(np.where(finite, x, np.float32(0)), kind, nudge=nudge)
    if not finite.all():
        group = {**GGUF_TYPES, **INPUT_TYPES}[kind].group
        bad = ~finite.reshape(*x.shape[:-1], -1, group).all(axis=-1)
        found.scales[bad] = np.nan
    return found


def _nearest_kind(tensor: TensorScheme) -> str:
    """The type of the format with the largest blocks that are not larger."""
    found = sorted(
        (g, kind) for (fmt, g), kind in KINDS.items() if fmt == tensor.format
    )
    assert found  # sanity check
    smaller = [kind for group, kind in found if group <= (tensor.block or 0)]
    return smaller[-1] if smaller else found[0][1]
