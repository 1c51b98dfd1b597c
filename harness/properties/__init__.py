"""Properties that every quantizer must have, as checks and Hypothesis strategies."""

from __future__ import annotations

from typing import Any

from harness.properties.checks import PROPERTIES, Property
from harness.properties.quantizer import (
    Quantizer,
    QuantizerRegistry,
    load_quantizers,
    own_quantizers,
)

__all__ = [
    "PROPERTIES",
    "Property",
    "Quantizer",
    "QuantizerRegistry",
    "check",
    "load_profiles",
    "load_quantizers",
    "own_quantizers",
    "tensors",
]


def __getattr__(name: str) -> Any:
    """What needs Hypothesis is imported when it is asked for."""
    if name in ("check", "load_profiles", "tensors"):
        from harness.properties import strategies

        return getattr(strategies, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
