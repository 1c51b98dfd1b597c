"""Trials as they end, in a file: an interrupted self-test goes on where it stopped.

A trial counts as done while nothing it depends on has changed: the harness's source
and the plugins', the suite's settings and budgets, its golden, and what was planted
where are in its key.
What was measured under another key stays in the file and counts for nothing.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from harness.defects import Planting, Trigger
from harness.errors import UsageError
from harness.execution.selftest.stage import Item
from harness.execution.selftest.trial import Threshold, Trial
from harness.execution.source import digest_of, source_digest

#: Name of the file in the folder of `--out`.
JOURNAL: Final = "trials.jsonl"


class Journal:
    """What has been tried; every trial is on disk before the next one begins.

    Args:
        path: JSON lines; None: nothing is kept.

    Raises:
        UsageError: the file is there and is no journal.
    """

    def __init__(self, path: Path | None) -> None:
        self._path = path
        self._lock = threading.Lock()
        self.trials: dict[str, Trial] = {}
        self.thresholds: dict[str, Threshold] = {}
        if path is not None and path.exists():
            self._read(path)

    def _read(self, path: Path) -> None:
        """Take in what is whole; a last line that was cut short is cut off."""
        whole = 0
        for number, line in enumerate(path.read_bytes().splitlines(keepends=True), 1):
            if not line.endswith(b"\n"):
                os.truncate(path, whole)
                return
            whole += len(line)
            try:
                entry = json.loads(line)
                key = entry["key"]
                if "trial" in entry:
                    self.trials[key] = _trial(entry["trial"])
                else:
                    self.thresholds[key] = Threshold(**entry["threshold"])
            except (ValueError, KeyError, TypeError) as error:
                message = (
                    f"{path}:{number}: no trial of a self-test ({error}); name another "
                    "folder with --out, or remove the file"
                )
                raise UsageError(message) from error

    def add(self, key: str, found: Trial | Threshold) -> None:
        """Keep it; it is on disk when this returns."""
        with self._lock:
            if isinstance(found, Trial):
                self.trials[key] = found
                entry = {"key": key, "trial": dataclasses.asdict(found)}
            else:
                self.thresholds[key] = found
                entry = {"key": key, "threshold": dataclasses.asdict(found)}
            if self._path is None:
                return
            self._path.parent.mkdir(parents=True, exist_ok=True)
            with self._path.open("a", encoding="utf-8") as file:
                file.write(json.dumps(entry, ensure_ascii=False) + "\n")
                file.flush()
                os.fsync(file.fileno())


def _trial(values: Mapping[str, Any]) -> Trial:
    planting = values["planting"]
    if planting is not None:
        trigger = planting["trigger"]
        trigger = None if trigger is None else Trigger(**trigger)
        planting = Planting(**{**planting, "trigger": trigger})
    return Trial(**{**values, "planting": planting})


def key_of(item: Item) -> str:
    """Names a trial: the same twice only if it would be the same trial."""
    suite = item.stage.suite
    digest = hashlib.sha256(source_digest().encode())
    files = (suite.path, suite.path.parent / "budgets.toml")
    digest.update(f"{digest_of(files)} {item.stage.plugged}".encode())
    golden = item.stage.golden
    digest.update(f"{golden.model_fingerprint} {golden.cases_fingerprint}".encode())
    digest.update(repr(item.planting).encode())
    where = f"{suite.name}/{item.target.name} {item.level} {item.number}"
    return f"{where} {digest.hexdigest()[:16]}"
