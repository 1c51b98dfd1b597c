"""The folder of a history: `<run id>.json`, the JSON of each run."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from harness.errors import UsageError
from harness.files import write_json
from harness.judge.serial import report_from_dict
from harness.judge.types import Report


@dataclass(frozen=True)
class History:
    """What a folder holds, in order of time."""

    reports: tuple[Report, ...]
    #: Files that could not be read, and why: named, never passed over in silence.
    problems: tuple[str, ...]

    def series(self, target: str, measurement: str) -> list[tuple[str, float]]:
        """(run id, value) of one measurement of one target, oldest first."""
        return [
            (report.run, entry.measurements[measurement].value)
            for report in self.reports
            for entry in report.targets
            if entry.name == target and measurement in entry.measurements
        ]


def append(report: Report, folder: Path) -> Path:
    """Add a run.

    Raises:
        UsageError: that run is already there; nothing is ever written over.
    """
    path = folder / f"{report.run}.json"
    if path.exists():
        raise UsageError(f"{path}: this run is already in the history")
    write_json(path, report.as_dict())
    return path


def load(folder: Path) -> History:
    """Every run of a folder.

    Raises:
        UsageError: there is no such folder.
    """
    if not folder.is_dir():
        raise UsageError(
            f"{folder}: no history there; `quantharness nightly` starts one"
        )
    reports, problems = [], []
    for path in sorted(folder.glob("*.json")):
        try:
            data = json.loads(path.read_text(encoding="utf-8"))
            reports.append(report_from_dict(data, source=str(path)))
        except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
            problems.append(f"{path}: not readable ({error}); left out")
        except UsageError as error:
            problems.append(f"{error}; left out")
    reports.sort(key=lambda report: (report.started, report.run))
    return History(tuple(reports), tuple(problems))


def latest_run_folder(folder: Path) -> Path:
    """The folder of the newest run of a history that is still there and passed.

    Raises:
        UsageError: there is none.
    """
    for report in reversed(load(folder).reports):
        if report.exit_code == 0 and (Path(report.folder) / "run.json").is_file():
            return Path(report.folder)
    raise UsageError(
        f"{folder}: no run that passed and whose folder is still there; run "
        "`quantharness nightly` first"
    )
