"""What a user would check at the end of the pipeline."""

from __future__ import annotations

from harness.behaviours.kinds import KINDS
from harness.behaviours.types import Answer, Behaviour, Replies, Reply

__all__ = ["KINDS", "Answer", "Behaviour", "Replies", "Reply"]
