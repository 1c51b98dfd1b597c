"""Replies that a program reads: JSON, tool calls, code, exact formats."""

from __future__ import annotations

import ast
import json
import re
import warnings
from collections.abc import Mapping
from typing import Any, Final

from harness.behaviours.each_reply import Seen, of_each
from harness.behaviours.schema import check_schema, fits
from harness.errors import CasesError, ConfigError

_FENCE: Final = re.compile(r"```[\w+-]*[ \t]*\n(.*?)(?:\n```|\Z)", re.DOTALL)
#: No JSON value, so that it is told from every one.
_BROKEN: Final = object()


def unfenced(text: str) -> str:
    """The first fenced block of a Markdown text, or all of it where there is none."""
    found = _FENCE.search(text)
    return (found.group(1) if found else text).strip()


def read_json(text: str) -> Any:
    """The JSON value that a text is, or holds in its first fenced block.

    Text around a value is not cut away: a parser in production would not either.

    Raises:
        ValueError: it is none; NaN and Infinity are not JSON.
    """

    def refuse(name: str) -> None:
        raise ValueError(name)

    return json.loads(unfenced(text), parse_constant=refuse)


def _value(seen: Seen) -> Any:
    try:
        return read_json(seen.text)
    except (ValueError, RecursionError):
        return _BROKEN


def _json(seen: Seen) -> bool:
    return _value(seen) is not _BROKEN


def json_schema(seen: Seen) -> bool:
    """Whether the reply is JSON that keeps the schema.

    Raises:
        CasesError: the case's schema is not understood.
    """
    schema = seen.options.get("schema", seen.wanted)
    try:
        check_schema(schema, f"case {seen.case.id!r}: expected.json")
    except ConfigError as error:
        raise CasesError(str(error)) from None
    value = _value(seen)
    return value is not _BROKEN and fits(value, schema)


def tool_call(seen: Seen) -> bool:
    """`{"name": ..., "arguments": {...}}`: the name, and each argument given."""
    value, wanted = _value(seen), seen.wanted
    if not isinstance(value, dict) or value.get("name") != wanted.get("name"):
        return False
    found = value.get("arguments", {})
    return isinstance(found, dict) and all(
        key in found and str(found[key]).casefold() == str(argument).casefold()
        for key, argument in wanted.get("arguments", {}).items()
    )


def code(seen: Seen) -> bool:
    """Python that parses; it is never run."""
    text = unfenced(seen.text)
    try:
        with warnings.catch_warnings():
            # An invalid escape in the reply is a warning of the compiler.
            warnings.simplefilter("ignore")
            tree = ast.parse(text)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return False
    names = {getattr(node, "name", "") for node in tree.body}
    wanted = seen.wanted if isinstance(seen.wanted, str) else ""
    return bool(tree.body) and (not wanted or wanted in names)


def format_(seen: Seen) -> bool:
    """Whether every rule of the case is kept.

    Raises:
        CasesError: a rule is unknown, or there is none.
    """
    if not isinstance(seen.wanted, Mapping) or not seen.wanted:
        raise CasesError(f"case {seen.case.id!r}: expected.format should be a table")
    unknown = sorted(set(seen.wanted) - set(_RULES))
    if unknown:
        raise CasesError(
            f"case {seen.case.id!r}: expected.format.{unknown[0]} is unknown; known: "
            f"{', '.join(_RULES)}"
        )
    return all(_RULES[rule](seen.text, value) for rule, value in seen.wanted.items())


def _between(count: int, limits: Any) -> bool:
    low, high = limits if isinstance(limits, list) else (limits, limits)
    return bool(low <= count <= high)


def _items(text: str) -> int:
    return len([part for part in text.strip(" .").split(",") if part.strip()])


def _lines(text: str) -> list[str]:
    return [line for line in text.splitlines() if line.strip()]


_NUMBERED: Final = re.compile(r"^\s*\d+[.)]\s+\S")
_BULLET: Final = re.compile(r"^\s*[-*•]\s+\S")

#: Rule -> whether a text keeps it; a count is a number or [least, most].
_RULES: Final[Mapping[str, Any]] = {
    "words": lambda text, limits: _between(len(text.split()), limits),
    "lines": lambda text, limits: _between(len(_lines(text)), limits),
    "sentences": lambda text, limits: _between(
        len(re.findall(r"[.!?]+(?:\s|$)", text)), limits
    ),
    "items": lambda text, limits: _between(_items(text), limits),
    "numbered": lambda text, limits: _between(
        sum(bool(_NUMBERED.match(line)) for line in _lines(text)), limits
    ),
    "bullets": lambda text, limits: _between(
        sum(bool(_BULLET.match(line)) for line in _lines(text)), limits
    ),
    "case": lambda text, which: text == getattr(text, which)() and text.strip() != "",
    "starts": lambda text, start: text.startswith(start),
    "ends": lambda text, end: text.endswith(end),
    "one_of": lambda text, allowed: text.rstrip(".") in allowed,
    "without": lambda text, parts: not any(part in text for part in parts),
}

KINDS: Final = (
    of_each("json", _json, key="json", summary="the whole reply is JSON"),
    of_each(
        "json_schema",
        json_schema,
        key="json",
        options={"schema": "JSON file with the schema; else `expected.json` is it"},
        summary="the reply is JSON that keeps the schema",
    ),
    of_each(
        "tool_call",
        tool_call,
        key="tool_call",
        summary="the reply calls the right function with the right arguments",
    ),
    of_each("code", code, key="code", summary="the reply is Python that parses"),
    of_each(
        "format",
        format_,
        key="format",
        summary="words, lines, list items, casing are as asked",
    ),
)
