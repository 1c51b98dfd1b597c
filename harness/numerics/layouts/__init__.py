"""Quantized tensors as files keep them: GGUF, compressed-tensors, ModelOpt."""

from __future__ import annotations

from harness.numerics.layouts.checkpoints import (
    from_compressed_tensors,
    from_modelopt,
    to_compressed_tensors,
    to_modelopt,
)
from harness.numerics.layouts.gguf import (
    GGUF_TYPES,
    INPUT_TYPES,
    read_gguf,
    write_gguf,
)
from harness.numerics.layouts.gguf_k import Q4K
from harness.numerics.layouts.gguf_rules import quantize_gguf

__all__ = [
    "GGUF_TYPES",
    "INPUT_TYPES",
    "Q4K",
    "from_compressed_tensors",
    "from_modelopt",
    "quantize_gguf",
    "read_gguf",
    "to_compressed_tensors",
    "to_modelopt",
    "write_gguf",
]
