"""ONNX operators in torch; imports torch, and is imported only where it is needed."""

from __future__ import annotations

from harness.models.graph_ops.common import Attributes, Op
from harness.models.graph_ops.table import OPS

__all__ = ["OPS", "Attributes", "Op"]
