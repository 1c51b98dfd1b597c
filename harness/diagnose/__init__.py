"""Which operator is wrong, and why: candidates tried in the oracle."""

from __future__ import annotations

from harness.diagnose.engine import diagnose
from harness.diagnose.observation import Call, Observation, keep
from harness.diagnose.types import UNKNOWN, Cause, Diagnosis

__all__ = ["UNKNOWN", "Call", "Cause", "Diagnosis", "Observation", "diagnose", "keep"]
