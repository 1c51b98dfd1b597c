"""What is under test, its cases and its fingerprint."""

from __future__ import annotations

from harness.models.types import Case, Model, Operator, TensorSpec

__all__ = ["Case", "Model", "Operator", "TensorSpec"]
