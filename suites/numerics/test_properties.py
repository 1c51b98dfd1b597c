"""What every quantizer must have: see `harness.properties` and docs/properties.md."""

from __future__ import annotations

from harness.properties import Property, Quantizer, check


def test_property(quantizer: Quantizer, entry: Property, profile: str) -> None:
    """The property holds for whatever Hypothesis draws."""
    check(quantizer, entry, profile=profile)
