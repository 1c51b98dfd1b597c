"""The part of JSON Schema that answers of a model are held against.

Keywords of the draft 2020-12 vocabulary "validation" that say something of a plain
answer; any other keyword is refused, so that no promise goes unchecked. `pattern`,
`$ref` and the combinators are not among them.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from harness.errors import ConfigError

_TYPES: Final[Mapping[str, tuple[type, ...]]] = {
    "object": (dict,),
    "array": (list,),
    "string": (str,),
    "integer": (int,),
    "number": (int, float),
    "boolean": (bool,),
    "null": (type(None),),
}
_KEYWORDS: Final[Mapping[str, tuple[type, ...]]] = {
    "type": (str,),
    "properties": (dict,),
    "required": (list,),
    "additionalProperties": (bool,),
    "items": (dict,),
    "minItems": (int,),
    "maxItems": (int,),
    "enum": (list,),
    "minimum": (int, float),
    "maximum": (int, float),
    "minLength": (int,),
    "maxLength": (int,),
    # Annotations: nothing to check.
    "title": (str,),
    "description": (str,),
    "$schema": (str,),
}


def check_schema(schema: Any, where: str) -> None:
    """Whether a schema is one that is understood, all through.

    Raises:
        ConfigError: an unknown keyword or type, or a keyword's value of a wrong type.
    """
    if not isinstance(schema, dict):
        raise ConfigError(f"{where}: a schema should be an object, not {schema!r}")
    for key, value in schema.items():
        if key not in _KEYWORDS:
            raise ConfigError(
                f"{where}: the keyword {key!r} is not checked; known: "
                f"{', '.join(_KEYWORDS)}"
            )
        if not isinstance(value, _KEYWORDS[key]):
            raise ConfigError(f"{where}.{key}={value!r} is of a wrong type")
    kind = schema.get("type")
    if kind is not None and kind not in _TYPES:
        raise ConfigError(f"{where}.type={kind!r}, but should be in {list(_TYPES)}")
    for name, inner in schema.get("properties", {}).items():
        check_schema(inner, f"{where}.properties.{name}")
    if "items" in schema:
        check_schema(schema["items"], f"{where}.items")


def fits(value: Any, schema: Mapping[str, Any]) -> bool:
    """Whether a JSON value keeps a schema that `check_schema` has passed."""
    kind = schema.get("type")
    if kind is not None and not _is(value, kind):
        return False
    if "enum" in schema and not any(_same(value, one) for one in schema["enum"]):
        return False
    if isinstance(value, dict):
        return _fits_object(value, schema)
    if isinstance(value, list):
        return _within(len(value), schema, "minItems", "maxItems") and all(
            fits(entry, schema.get("items", {})) for entry in value
        )
    if isinstance(value, str):
        return _within(len(value), schema, "minLength", "maxLength")
    if _is(value, "number"):
        return _within(value, schema, "minimum", "maximum")
    return True


def _is(value: Any, kind: str) -> bool:
    if isinstance(value, bool):
        return kind == "boolean"
    if kind == "integer" and isinstance(value, float):
        return value.is_integer()
    return isinstance(value, _TYPES[kind])


def _same(first: Any, second: Any) -> bool:
    return isinstance(first, bool) == isinstance(second, bool) and bool(first == second)


def _fits_object(value: Mapping[str, Any], schema: Mapping[str, Any]) -> bool:
    known = schema.get("properties", {})
    if not set(schema.get("required", ())) <= set(value):
        return False
    if schema.get("additionalProperties") is False and not set(value) <= set(known):
        return False
    return all(fits(value[key], known[key]) for key in known if key in value)


def _within(value: float, schema: Mapping[str, Any], low: str, high: str) -> bool:
    return bool(schema.get(low, value) <= value <= schema.get(high, value))
