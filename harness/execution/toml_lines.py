"""TOML read with the line of every key, so that an error can point at it."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path
from typing import Any

from harness.errors import ConfigError

_HEADER = re.compile(r"^\s*(\[\[?)\s*([^\]]+?)\s*\]\]?\s*(?:#.*)?$")
_KEY = re.compile(r"^\s*(\"[^\"]*\"|'[^']*'|[A-Za-z0-9_.\-]+)\s*=")
_PARSER_LINE = re.compile(r"\(at line (\d+)")


def read_toml(path: Path) -> tuple[dict[str, Any], str]:
    """The parsed file and its text.

    Raises:
        ConfigError: the file is missing, not UTF-8 or not TOML.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise ConfigError("the file does not exist", path=path) from None
    except IsADirectoryError:
        raise ConfigError("this is a folder, not a file", path=path) from None
    except UnicodeDecodeError as error:
        raise ConfigError(f"not UTF-8: {error}", path=path) from None
    try:
        return tomllib.loads(text), text
    except tomllib.TOMLDecodeError as error:
        found = _PARSER_LINE.search(str(error))
        line = int(found.group(1)) if found else None
        raise ConfigError(f"not TOML: {error}", path=path, line=line) from None


def line_of(text: str, *where: str | int) -> int | None:
    """Line (from 1) of a key: `line_of(text, "target", 1, "scheme")`.

    Integers count the entries of an array of tables. A key that stands in an inline
    table is found as the line of the table's own key.
    """
    tables = [part for part in where if isinstance(part, str)]
    index = next((part for part in where if isinstance(part, int)), None)
    for depth in range(len(tables), 0, -1):
        found = _search(text, tables[:depth], index)
        if found is not None:
            return found
    return None


def _search(text: str, names: list[str], index: int | None) -> int | None:
    """The line where `names` is a header, or a key under the header before it."""
    section: list[str] = []
    seen: dict[str, int] = {}
    for number, line in enumerate(text.splitlines(), start=1):
        header = _HEADER.match(line)
        if header:
            section = _split(header.group(2))
            joined = ".".join(section)
            if header.group(1) == "[[":
                seen[joined] = seen.get(joined, -1) + 1
            in_entry = index is None or seen.get(section[0], 0) == index
            if section == names and in_entry:
                return number
            continue
        key = _KEY.match(line)
        if not key:
            continue
        in_entry = index is None or not section or seen.get(section[0], 0) == index
        if in_entry and section + _split(key.group(1)) == names:
            return number
    return None


def _split(dotted: str) -> list[str]:
    """Parts of a dotted key; quoted parts keep their dots."""
    parts = re.findall(r"\"([^\"]*)\"|'([^']*)'|([^.\s]+)", dotted)
    return [next(piece for piece in part if piece) for part in parts if any(part)]
