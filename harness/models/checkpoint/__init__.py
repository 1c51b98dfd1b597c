"""Checkpoints as vendors' quantizers write them, read without their libraries."""

from __future__ import annotations

from harness.models.checkpoint.audit import Audit, Finding, audit
from harness.models.checkpoint.checkpoint import Checkpoint, StoredLayer
from harness.models.checkpoint.config import Recipe, StoredConfig, is_quantized

__all__ = [
    "Audit",
    "Checkpoint",
    "Finding",
    "Recipe",
    "StoredConfig",
    "StoredLayer",
    "audit",
    "is_quantized",
]
