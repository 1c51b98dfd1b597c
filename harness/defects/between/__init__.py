"""Defects of what lies between operators: norms, attention, sums, activations."""

from __future__ import annotations

from harness.defects.between.catalogue import BETWEEN

__all__ = ["BETWEEN"]
