"""Evidence as JSON and back, so that a run can be judged again: replays, budgets."""

from __future__ import annotations

import dataclasses
import math
import types
import typing
from collections.abc import Mapping
from typing import Any, Final

import numpy as np

from harness.errors import UsageError
from harness.judge import evidence as definitions
from harness.judge.evidence import Evidence

#: Version of the file.
SCHEMA: Final = 1


def evidence_as_dict(evidence: Evidence) -> dict[str, Any]:
    """Plain JSON values; numbers that are not finite become "nan", "inf", "-inf"."""
    return {"schema": SCHEMA, "evidence": _plain(evidence)}


def evidence_from_dict(data: Any, *, source: str = "evidence.json") -> Evidence:
    """The evidence whose `evidence_as_dict` gave `data`.

    Raises:
        UsageError: another schema, or not evidence; names `source`.
    """
    schema = data.get("schema") if isinstance(data, Mapping) else None
    if schema != SCHEMA:
        raise UsageError(
            f"{source}: schema={schema!r}, but this version reads {SCHEMA}; run the "
            "suites again"
        )
    try:
        found = _typed(Evidence, data["evidence"])
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise UsageError(f"{source}: not whole evidence ({error!r})") from None
    assert isinstance(found, Evidence)  # sanity check
    return found


def _plain(value: Any) -> Any:
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        fields = dataclasses.fields(value)
        return {field.name: _plain(getattr(value, field.name)) for field in fields}
    if isinstance(value, np.ndarray):
        return [_plain(entry) for entry in value.tolist()]
    if isinstance(value, Mapping):
        return {str(key): _plain(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(entry) for entry in value]
    if isinstance(value, float | np.floating):
        return float(value) if math.isfinite(value) else str(float(value))
    if isinstance(value, np.integer | np.bool_):
        return value.item()
    return value


def _typed(hint: Any, value: Any) -> Any:
    """A plain value as the type that a field declares."""
    if value is None:
        return None
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        chosen = [entry for entry in arguments if entry is not type(None)]
        return _typed(chosen[0], value)
    if origin is tuple:
        if arguments[-1] is Ellipsis:
            return tuple(_typed(arguments[0], entry) for entry in value)
        pairs = zip(arguments, value, strict=True)
        return tuple(_typed(kind, entry) for kind, entry in pairs)
    if hint == definitions.FloatArray:
        return np.array([float(entry) for entry in value], dtype=np.float64)
    if hint == definitions.BoolArray:
        return np.array(value, dtype=bool)
    if origin is not None and isinstance(value, Mapping):
        return {key: _typed(arguments[1], entry) for key, entry in value.items()}
    if dataclasses.is_dataclass(hint) and isinstance(hint, type):
        return _record(hint, value)
    return float(value) if hint is float else value


def _record(kind: type, value: Mapping[str, Any]) -> Any:
    """A dataclass from its fields; fields of newer versions are passed over."""
    hints = typing.get_type_hints(kind)
    known = {field.name for field in dataclasses.fields(kind)}
    entries = {
        name: _typed(hints[name], entry)
        for name, entry in value.items()
        if name in known
    }
    return kind(**entries)
