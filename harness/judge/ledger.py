"""`budgets.toml`: limits and acknowledged failures, each with a reason and an end.

::

    [[budget]]
    target = "onnxruntime/fp8_e4m3"   # backend/scheme, or a pattern: "*/nvfp4"
    metric = "drift"
    limit = 0.081
    margin = 0.008                    # optional: effect the cases must resolve
    least = 0.02                      # optional: better than this is a broken test
    reason = "calibrated on 40 resamples of the golden's cases"
    data = "sha256:..."               # digest of what it was derived from
    date = 2026-08-01
    author = "quantharness calibrate"
    expires = 2027-02-01
    model = "onnx:4f1c..."            # the budget dies with its model

    [[acknowledgement]]
    target = "openvino/int8"
    check = "behaviour"
    metric = "behaviour.labels.loss"  # optional: any of the check
    limit = 0.03                      # what was seen: more than that still fails; of a
                                      # check without a value, how many it is about
    reason = "bug 123, fixed in the next release of the runtime"
    date = 2026-08-01
    author = "jo"
    expires = 2026-10-01
    model = "onnx:4f1c..."
    [acknowledgement.operators]       # of "explained": what each operator (or path,
                                      # "BEFORE -> AFTER") may show; * stands for any
    "encoder.0.fc1" = 0.4
"""

from __future__ import annotations

import datetime as dt
import difflib
import fnmatch
import math
import re
import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from harness.errors import ConfigError
from harness.judge.types import CHECKS

_REQUIRED: Final[Mapping[str, tuple[str, ...]]] = {
    "budget": (
        "target",
        "metric",
        "limit",
        "reason",
        "data",
        "date",
        "author",
        "expires",
        "model",
    ),
    "acknowledgement": (
        "target",
        "check",
        "limit",
        "reason",
        "date",
        "author",
        "expires",
        "model",
    ),
}
_OPTIONAL: Final[Mapping[str, tuple[str, ...]]] = {
    "budget": ("margin", "least"),
    "acknowledgement": ("metric", "operators"),
}
_NUMBERS: Final = frozenset({"limit", "margin", "least"})
_DATES: Final = frozenset({"date", "expires"})
_PARSER_LINE: Final = re.compile(r"\(at line (\d+)")


@dataclass(frozen=True, kw_only=True)
class Entry:
    """One checked table of the ledger."""

    #: "budget" or "acknowledgement".
    kind: str
    values: Mapping[str, Any]
    #: "budgets.toml:LINE".
    source: str

    def __getitem__(self, key: str) -> Any:
        return self.values[key]

    def covers(self, target: str) -> bool:
        """Whether the entry is about `backend/scheme`."""
        return fnmatch.fnmatchcase(target, self.values["target"])


def read_ledger(
    path: Path,
    *,
    targets: Iterable[str],
    model: str | None,
    today: dt.date | None = None,
) -> tuple[Entry, ...]:
    """Every entry of the ledger; none when the file does not exist.

    Args:
        path: of `budgets.toml`.
        targets: `backend/scheme` of every target of the suite.
        model: fingerprint of today's model; None: not known yet, not checked.
        today: the date that expiry is judged at; None: now.

    Raises:
        ConfigError: an entry is malformed, lacks a reason, is expired, or matches no
            target or another model: names the file, the key and the line.
    """
    if not path.exists():
        return ()
    text = _read(path)
    try:
        data = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        found = _PARSER_LINE.search(str(error))
        line = int(found.group(1)) if found else None
        raise ConfigError(f"not TOML: {error}", path=path, line=line) from None
    reader = _Reader(path, text, tuple(targets), model, today or _today())
    return reader.entries(data)


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"cannot be read: {error}", path=path) from None


def _today() -> dt.date:
    return dt.datetime.now(tz=dt.UTC).date()


@dataclass(frozen=True)
class _Reader:
    """Checks one file; every error points at its line."""

    path: Path
    text: str
    targets: tuple[str, ...]
    model: str | None
    today: dt.date

    def entries(self, data: Mapping[str, Any]) -> tuple[Entry, ...]:
        found: list[Entry] = []
        for kind, tables in data.items():
            if kind not in _REQUIRED:
                raise self.error(
                    f"unknown key {kind!r}{_hint(kind, _REQUIRED)}", kind, None, None
                )
            if not isinstance(tables, list):
                raise self.error(f"write [[{kind}]], not [{kind}]", kind, None, None)
            found += [self.entry(kind, i, table) for i, table in enumerate(tables)]
        self.once(found)
        return tuple(found)

    def entry(self, kind: str, index: int, table: Mapping[str, Any]) -> Entry:
        known = (*_REQUIRED[kind], *_OPTIONAL[kind])
        for key in table:
            if key not in known:
                raise self.error(
                    f"unknown key {key!r}{_hint(key, known)}", kind, index, key
                )
        for key in _REQUIRED[kind]:
            if key not in table:
                raise self.error(f"{key!r} is missing", kind, index, None)
        values = {
            key: self.value(kind, index, key, value) for key, value in table.items()
        }
        self.alive(kind, index, values)
        line = self.line(kind, index, None)
        return Entry(kind=kind, values=values, source=f"{self.path.name}:{line}")

    def value(self, kind: str, index: int, key: str, value: Any) -> Any:
        if key in _NUMBERS:
            number = isinstance(value, int | float) and not isinstance(value, bool)
            # A known NaN is infinitely far: to accept that takes saying `inf`.
            finite = number and (kind == "acknowledgement" or math.isfinite(value))
            if not finite or not value >= 0:
                raise self.error(
                    f"{key}={value!r}, but should be a number >= 0", kind, index, key
                )
            return float(value)
        if key == "operators":
            return self.operators(kind, index, value)
        if key in _DATES:
            return self.date(kind, index, key, value)
        if not isinstance(value, str) or not value.strip():
            raise self.error(
                f"{key}={value!r}, but should be a text that says something",
                kind,
                index,
                key,
            )
        if key == "check" and value not in CHECKS:
            raise self.error(
                f"check={value!r} is unknown{_hint(value, CHECKS)}", kind, index, key
            )
        return value

    def operators(self, kind: str, index: int, value: Any) -> dict[str, float]:
        if not isinstance(value, dict):
            raise self.error(
                f"operators={value!r}, but should be a table of numbers by name",
                kind,
                index,
                "operators",
            )
        return {
            name: self.value(kind, index, "limit", number)
            for name, number in value.items()
        }

    def date(self, kind: str, index: int, key: str, value: Any) -> dt.date:
        if isinstance(value, dt.datetime):
            return value.date()
        if isinstance(value, dt.date):
            return value
        try:
            return dt.date.fromisoformat(value)
        except (TypeError, ValueError):
            raise self.error(
                f"{key}={value!r}, but should be a date as 2026-08-01",
                kind,
                index,
                key,
            ) from None

    def alive(self, kind: str, index: int, values: Mapping[str, Any]) -> None:
        """Neither expired, nor of another model, nor about nothing."""
        if values["expires"] < self.today:
            raise self.error(
                f"the {kind} for {values['target']} expired on {values['expires']}; "
                "remove it, or renew it with a reason",
                kind,
                index,
                "expires",
            )
        if self.model is not None and values["model"] != self.model:
            raise self.error(
                f"model={values['model']!r}, but should be {self.model!r}: the {kind} "
                "was made for another model; `quantharness calibrate` makes a new one",
                kind,
                index,
                "model",
            )
        pattern = values["target"]
        if not any(fnmatch.fnmatchcase(name, pattern) for name in self.targets):
            hint = _hint(pattern, self.targets)
            raise self.error(
                f"target={pattern!r} matches none of the suite's targets{hint}",
                kind,
                index,
                "target",
            )

    def once(self, entries: list[Entry]) -> None:
        """No two budgets for one metric of one target."""
        seen: dict[tuple[str, str], Entry] = {}
        for entry in entries:
            if entry.kind != "budget":
                continue
            for target in self.targets:
                if not entry.covers(target):
                    continue
                key = (target, entry["metric"])
                if key in seen and seen[key]["target"] == entry["target"]:
                    raise ConfigError(
                        f"two budgets for {entry['metric']} of {target}: "
                        f"{seen[key].source} and {entry.source}; keep one",
                        path=self.path,
                        key="metric",
                        line=int(entry.source.rpartition(":")[2]),
                    )
                seen[key] = entry

    def error(
        self, message: str, kind: str, index: int | None, key: str | None
    ) -> ConfigError:
        name = kind if key is None else f"{kind}.{key}"
        return ConfigError(
            message, path=self.path, key=name, line=self.line(kind, index, key)
        )

    def line(self, kind: str, index: int | None, key: str | None) -> int:
        """Line of a key of the index-th table of a kind; of the table if not found."""
        header, count = 1, -1
        for number, line in enumerate(self.text.splitlines(), start=1):
            if re.match(rf"\s*\[\[?\s*{re.escape(kind)}\s*\]", line):
                count += 1
                if index is None or count == index:
                    header = number
                if index is None:
                    break
            elif count == index and key is not None:
                if re.match(rf"\s*[\"']?{re.escape(key)}[\"']?\s*=", line):
                    return number
            elif index is None and re.match(rf"\s*{re.escape(kind)}\s*=", line):
                return number
        return header


def _hint(given: str, known: Iterable[str]) -> str:
    known = tuple(known)
    close = difflib.get_close_matches(given, known, n=1)
    return f"; did you mean {close[0]!r}?" if close else f"; known: {', '.join(known)}"
