"""What is wrong with an operator, found by planting candidates in the oracle."""

from __future__ import annotations

from harness.diagnose.engine import confirm, diagnose
from harness.diagnose.heat import HeatMap, heat_map
from harness.diagnose.observation import Call, Observation, keep
from harness.diagnose.types import FLUSHED, UNKNOWN, Cause, Diagnosis

__all__ = [
    "FLUSHED",
    "UNKNOWN",
    "Call",
    "Cause",
    "Diagnosis",
    "HeatMap",
    "Observation",
    "confirm",
    "diagnose",
    "heat_map",
    "keep",
]
