"""Checks JSON against a JSON schema, for the few keywords that the schemas of this project use."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

_TYPES = {
    "object": dict,
    "array": list,
    "string": str,
    "boolean": bool,
    "null": type(None),
}
_KNOWN = {
    *("$defs", "$ref", "$schema", "additionalProperties", "anyOf", "const", "description", "enum"),
    *("items", "maximum", "minimum", "properties", "required", "title", "type"),
}


def violations(value: Any, schema: dict, root: dict | None = None, at: str = "$") -> Iterator[str]:
    """Yields what a value has that its schema does not allow."""
    root = schema if root is None else root
    assert set(schema) <= _KNOWN, f"unknown keywords at {at}: {set(schema) - _KNOWN}"
    if "$ref" in schema:
        name = schema["$ref"].removeprefix("#/$defs/")
        yield from violations(value, root["$defs"][name], root, at)
    if "const" in schema and value != schema["const"]:
        yield f"{at}: {value!r} is not {schema['const']!r}"
    if "enum" in schema and value not in schema["enum"]:
        yield f"{at}: {value!r} is not one of {schema['enum']}"
    if "anyOf" in schema and all([*violations(value, each, root, at)] for each in schema["anyOf"]):
        yield f"{at}: {value!r} fits no alternative"
    kinds = schema.get("type")
    kinds = [kinds] if isinstance(kinds, str) else kinds
    if kinds and not any(_is(value, kind) for kind in kinds):
        yield f"{at}: {value!r} is none of {kinds}"
        return
    low, high = schema.get("minimum", -math.inf), schema.get("maximum", math.inf)
    if _is(value, "number") and not low <= value <= high:
        yield f"{at}: {value!r} is out of range"
    if isinstance(value, dict):
        yield from _of_object(value, schema, root, at)
    if isinstance(value, list) and "items" in schema:
        for place, each in enumerate(value):
            yield from violations(each, schema["items"], root, f"{at}[{place}]")


def _of_object(value: dict, schema: dict, root: dict, at: str) -> Iterator[str]:
    known, more = schema.get("properties", {}), schema.get("additionalProperties", True)
    for name in schema.get("required", []):
        if name not in value:
            yield f"{at}.{name} is missing"
    for name, each in value.items():
        if name in known:
            yield from violations(each, known[name], root, f"{at}.{name}")
        elif more is False:
            yield f"{at}.{name} is unknown"
        elif isinstance(more, dict):
            yield from violations(each, more, root, f"{at}.{name}")


def _is(value: Any, kind: str) -> bool:
    if kind in ("number", "integer"):
        right = isinstance(value, int) or (kind == "number" and isinstance(value, float))
        return right and not isinstance(value, bool)
    return isinstance(value, _TYPES[kind])
