"""Known ways for quantized inference to be wrong, each of which can be planted."""

from __future__ import annotations

from harness.defects.backend import PlantedBackend
from harness.defects.catalogue import DEFECTS, find_defect
from harness.defects.types import (
    WHOLE,
    Defect,
    Parameter,
    Planting,
    Site,
    Trigger,
    Unfit,
)

__all__ = [
    "DEFECTS",
    "WHOLE",
    "Defect",
    "Parameter",
    "PlantedBackend",
    "Planting",
    "Site",
    "Trigger",
    "Unfit",
    "find_defect",
]
