"""A report read back from the JSON it was written as."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from harness.errors import UsageError
from harness.judge.types import (
    SCHEMA,
    CheckResult,
    Judgement,
    Measurement,
    OperatorResult,
    Report,
    Verdict,
)

_NAMED = frozenset({"inf", "-inf", "nan"})


def report_from_dict(data: Mapping[str, Any], *, source: str = "run.json") -> Report:
    """The report whose `as_dict` gave `data`.

    Raises:
        UsageError: another schema, or not a report; names `source`.
    """
    schema = data.get("schema") if isinstance(data, Mapping) else None
    if schema != SCHEMA:
        raise UsageError(
            f"{source}: schema={schema!r}, but this version reads {SCHEMA}; "
            "run the suites again to make a run that can be read"
        )
    try:
        targets = tuple(_judgement(target) for target in data["targets"])
        return Report(
            run=str(data["run"]),
            environment=dict(data["environment"]),
            targets=targets,
            folder=str(data.get("folder", "")),
            started=str(data.get("started", "")),
            seconds=float(data.get("seconds", 0.0)),
            baseline=data.get("baseline"),
            nights=dict(data.get("nights", {})),
            since_golden={
                suite: {name: (str(a), str(b)) for name, (a, b) in found.items()}
                for suite, found in data.get("since_golden", {}).items()
            },
        )
    except (KeyError, TypeError, ValueError) as error:
        raise UsageError(f"{source}: not a whole report ({error!r})") from None


def _fields(kind: type, data: Mapping[str, Any]) -> dict[str, Any]:
    """The entries of `data` that are fields of `kind`; newer ones are passed over."""
    names = {field.name for field in dataclasses.fields(kind)}
    found = {key: value for key, value in data.items() if key in names}
    # Numbers that JSON has no word for are written as their names.
    return {
        k: float(v) if isinstance(v, str) and v in _NAMED else v
        for k, v in found.items()
    }


def _judgement(data: Mapping[str, Any]) -> Judgement:
    entries = _fields(Judgement, data)
    entries["verdict"] = Verdict(data["verdict"])
    entries["measurements"] = {
        name: Measurement(**(_fields(Measurement, value) | {"name": name}))
        for name, value in data["measurements"].items()
    }
    entries["operators"] = tuple(
        OperatorResult(**_fields(OperatorResult, value)) for value in data["operators"]
    )
    entries["paths"] = tuple(
        OperatorResult(**_fields(OperatorResult, value))
        for value in data.get("paths", [])
    )
    entries["checks"] = tuple(
        CheckResult(
            **(_fields(CheckResult, value) | {"verdict": Verdict(value["verdict"])})
        )
        for value in data.get("checks", [])
    )
    entries["diagnosis"] = tuple(data.get("diagnosis", []))
    return Judgement(**entries)
