"""Measurements of two runs: everything at once, in one pass."""

from __future__ import annotations

from harness.compare.comparison import Comparison, NonFinite
from harness.compare.tensors import compare

__all__ = ["Comparison", "NonFinite", "compare"]
