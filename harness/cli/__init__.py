"""The `quantharness` command."""

from __future__ import annotations
