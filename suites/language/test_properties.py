"""What every language model must have: see `harness.properties.language`."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from harness.properties.language import LanguageProperty, check_language

if TYPE_CHECKING:
    from harness.execution.speakers import Speakers


def test_property(
    speakers: Speakers, speaker: str, entry: LanguageProperty, profile: str
) -> None:
    """Ways to ask the same agree, whatever prompt Hypothesis draws."""
    asked = speakers.reference() if speaker == "reference" else speakers.target(speaker)
    if entry.needs and not hasattr(asked.session, entry.needs):
        pytest.skip(f"{speaker} has no {entry.needs}")
    check_language(asked, entry, profile=profile)
