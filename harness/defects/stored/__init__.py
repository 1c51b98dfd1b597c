"""Defects of weights as they are stored: in the files that engines read."""

from __future__ import annotations

from harness.defects.stored.catalogue import STORED
from harness.defects.stored.emulated import planted_quantized
from harness.defects.stored.gguf_file import plant_gguf
from harness.defects.stored.safetensors_file import plant_safetensors
from harness.defects.stored.types import Neighbours, Planted, StoredWeight, changed

__all__ = [
    "STORED",
    "Neighbours",
    "Planted",
    "StoredWeight",
    "changed",
    "plant_gguf",
    "plant_safetensors",
    "planted_quantized",
]
