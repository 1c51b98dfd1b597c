"""A run's folder: what it holds, and how it is read back as a baseline."""

from __future__ import annotations

import json
import secrets
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

from harness.errors import UsageError
from harness.files import write_json
from harness.judge.evidence import Evidence
from harness.judge.evidence_file import evidence_as_dict
from harness.judge.serial import report_from_dict
from harness.judge.types import Judgement, Report

#: A target's verdict, and what it was judged on, in its folder.
VERDICT: Final = "verdict.json"
EVIDENCE: Final = "evidence.json"


def new_run_id(now: datetime | None = None) -> str:
    """`20261123-081502-3fa9`: sorts by time, and two at once do not collide."""
    moment = now or datetime.now(UTC)
    return f"{moment:%Y%m%d-%H%M%S}-{secrets.token_hex(2)}"


def target_folder(run: Path, suite: str, target: str) -> Path:
    """Where one target's artifacts lie: `targets/SUITE/BACKEND/SCHEME`."""
    return run / "targets" / suite / Path(target)


def write_report(report: Report, folder: Path) -> None:
    """Write `run.json`, the report as `--json` prints it."""
    write_json(folder / "run.json", report.as_dict())


def write_target(judgement: Judgement, evidence: Evidence, folder: Path) -> None:
    """Write one target's verdict and what it rests on, as soon as they are known."""
    write_json(folder / VERDICT, judgement.as_dict())
    write_json(folder / EVIDENCE, evidence_as_dict(evidence))


def read_report(folder: Path) -> Report:
    """The report of a run folder.

    Raises:
        UsageError: no run there, or not one that this version reads.
    """
    file = folder / "run.json"
    try:
        data: Any = json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UsageError(f"{folder}: not a run folder (it has no run.json)") from None
    except (UnicodeDecodeError, json.JSONDecodeError) as error:
        raise UsageError(f"{file}: not JSON ({error})") from None
    return report_from_dict(data, source=str(file))


def find_baseline(spec: str, history: Path) -> Path:
    """The folder of a baseline: a path, or `history:latest`.

    Raises:
        UsageError: there is none.
    """
    if spec != "history:latest":
        folder = Path(spec)
        if not (folder / "run.json").is_file():
            raise UsageError(
                f"--baseline {spec}: not a run folder (it has no run.json); "
                "`quantharness run --out FOLDER` makes one"
            )
        return folder
    from harness.history import latest_run_folder

    return latest_run_folder(history)
