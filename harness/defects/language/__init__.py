"""Defects that only a language model can have: cache, positions, prompts, answers."""

from __future__ import annotations

from harness.defects.language.answers import ANSWERS
from harness.defects.language.cache import CACHE
from harness.defects.language.model import MODEL
from harness.defects.language.plant import plant_language
from harness.defects.language.prompts import PROMPTS

__all__ = ["ANSWERS", "CACHE", "MODEL", "PROMPTS", "plant_language"]
