"""Outputs that others recorded, read; goldens, written as others read them."""

from __future__ import annotations

from harness.golden.interchange.archives import (
    read_npz,
    read_safetensors,
    write_npz,
    write_safetensors,
)
from harness.golden.interchange.llama_cpp import KlBase, read_kl_base
from harness.golden.interchange.llama_cpp_statistics import KlStatistics, kl_statistics
from harness.golden.interchange.onnx_test_data import read_test_data, write_test_data
from harness.golden.interchange.polygraphy import (
    read_polygraphy,
    write_polygraphy,
)

__all__ = [
    "KlBase",
    "KlStatistics",
    "kl_statistics",
    "read_kl_base",
    "read_npz",
    "read_polygraphy",
    "read_safetensors",
    "read_test_data",
    "write_npz",
    "write_polygraphy",
    "write_safetensors",
    "write_test_data",
]
