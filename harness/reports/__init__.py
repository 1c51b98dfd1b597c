"""Renderers of a report: each reads what was decided and recomputes nothing."""

from __future__ import annotations
