"""Recorded reference outputs: sealed, verified, compared."""

from __future__ import annotations

from harness.golden.store import Golden, read_golden, write_golden

__all__ = ["Golden", "read_golden", "write_golden"]
