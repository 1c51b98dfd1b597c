"""What is wrong with an operator, found by planting candidates in the oracle."""

from __future__ import annotations

from harness.diagnose.engine import diagnose
from harness.diagnose.heat import HeatMap, heat_map
from harness.diagnose.observation import Call, Observation, keep
from harness.diagnose.types import UNKNOWN, Cause, Diagnosis

__all__ = [
    "UNKNOWN",
    "Call",
    "Cause",
    "Diagnosis",
    "HeatMap",
    "Observation",
    "diagnose",
    "heat_map",
    "keep",
]
