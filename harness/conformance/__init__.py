"""Does a backend compute what its formats promise? Run on any plugin."""

from __future__ import annotations

from harness.conformance.report import CheckReport, SchemeReport
from harness.conformance.run import CHECKS, examine

__all__ = ["CHECKS", "CheckReport", "SchemeReport", "examine"]
