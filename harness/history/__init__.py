"""Runs over time: one file a run, appended, never changed."""

from __future__ import annotations

from harness.history.store import History, append, latest_run_folder, load

__all__ = ["History", "append", "latest_run_folder", "load"]
